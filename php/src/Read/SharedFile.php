<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\TooStale;
use Roster\Exception\TransportFailed;
use Roster\Freshness;
use Roster\Instance;
use Roster\Master;
use Roster\Node;
use Roster\Origin;
use Roster\Owner;
use Roster\Quiet;
use Roster\Resolved;
use Roster\Transport;
use Roster\Wire\Version;

use function abs;
use function dba_fetch;
use function getmypid;
use function microtime;
use function strlen;

use const PHP_SAPI;
use const PHP_VERSION_ID;

/**
 * Reads the sidecar's shared file, in microseconds and without a call.
 *
 * Each fetch sees the newest state, so related entries are read between two reads of `meta/freshness`, which every
 * change rewrites: if both are equal, nothing changed in between. The last one of an earlier read serves as the first.
 *
 * Loads no class that a read does not need when all is well: in a fresh process, loading takes most of the time.
 *
 * @internal
 */
final class SharedFile
{
    /** Subjects besides nodes: instances, whatever their source, and masters. */
    public const INSTANCES = 'instances';
    public const MASTERS = 'masters';

    private const FORMAT = '2';

    /** LMDB's keys have at most 511 bytes. A longer name is replaced by its digest. */
    private const LONGEST_NAME = 500;

    /**
     * The writer rewrites `meta/freshness` every second. After this long without that, it is away. So it is if that lies this
     * far ahead: the clock was set back, and a living writer would have rewritten it since.
     */
    private const SILENCE_MS = 3_000;

    private const TRIES = 8;

    /** How many random draws to try before looking through all weights. */
    private const DRAWS = 8;

    /**
     * How many draws may find only instances that warm up, of which a part of the weight counts: if so many do, almost all
     * warm up, and they are compared with the warmest of those drawn. After so many more, the next is taken.
     */
    private const REDRAWS = 16;
    private const CHANCES = 1 << 40;

    /** A larger number of instances is believed only if the file has this many bytes for each. */
    private const FEW_INSTANCES = 4_096;
    private const MIN_INSTANCE_BYTES = 64;

    /** The meaning of warnings from `dba`. */
    private const CURES = [
        '/No such file/' => 'it is not there: does a sidecar run, and is this its `[shared] path`?',
        '/Permission denied/' => 'this user may not open it, or its lock file: %s',
        '/MDB_READERS_FULL/' => 'as many processes have it open as may: raise `[shared] max_readers`',
        '/MDB_(INVALID|VERSION|CORRUPTED|PAGE_NOTFOUND|BAD)/' =>
            'it is damaged, or no shared file of Roster: `roster shared check` says more; a restart of the sidecar'
            . ' puts a sound one there',
    ];

    /**
     * By process and file, each with the uid of the file's owner: LMDB must not open a file twice in one process, so
     * clients that name different users share a handle.
     *
     * @var array<int, array<string, array{resource, int|false}>>
     */
    private static array $handles = [];

    /** @var ?resource the handle whose file's owner was checked for this client */
    private $checked = null;

    /** The freshness of the last answer. */
    public Freshness $freshness;

    /** `meta/freshness` as last read, */
    private string $json = '';
    /** decoded, */
    private array $report = [];
    /** and the resulting freshness of any read; null if that depends on what is read. */
    private ?Freshness $fresh = null;
    /** For how long the writer has been away; 0 while it is alive. */
    private int $silenceMs = 0;

    /**
     * @param ?Owner $owner the required owner of the file; null: anybody
     * @param bool $isLast whether to read it even if its writer is away: for when everything else has failed
     */
    public function __construct(
        private readonly string $file,
        private readonly ?Owner $owner = null,
        public readonly bool $isLast = false,
    ) {
    }

    public function transport(): Transport
    {
        return Transport::Shared;
    }

    public function target(): string
    {
        return $this->file . ($this->isLast ? ' as it was left' : '');
    }

    /**
     * The node at a path, if it exists and nothing changed since the last read; if this is null, `nodes` says more.
     * Takes two thirds of the time of `nodes`.
     */
    public function node(string $path): ?Node
    {
        $handle = self::$handles[self::process()][$this->file][0] ?? null;
        $isChecked = $handle !== null && $handle === $this->checked;
        if (!$isChecked || $this->fresh === null || strlen($path) > self::LONGEST_NAME) {
            return null;
        }
        Quiet::begin();
        try {
            $data = dba_fetch("node$path", $handle);
            $stat = dba_fetch("stat$path", $handle);
            $json = dba_fetch('meta/freshness', $handle);
        } finally {
            Quiet::end();
        }
        $isUnchanged = $json === $this->json
            && abs(microtime(true) * 1_000 - $this->report['writtenAt']) <= self::SILENCE_MS;
        return $isUnchanged && $data !== false && $path[0] === '/'
            ? new Node($path, $data, (string) $stat, $this->freshness = $this->fresh)
            : null;
    }

    /**
     * @param list<string> $paths
     * @return array<string, Node>
     */
    public function nodes(array $paths, ?int $maxAge): array
    {
        $keys = [];
        foreach ($paths as $path) {
            $name = self::name($path);
            $keys[] = "node$name";
            $keys[] = "stat$name";
        }
        $found = $this->entries($keys, $paths, $maxAge);
        $nodes = [];
        foreach ($paths as $index => $path) {
            $data = $found[2 * $index];
            // A node's path is well formed.
            if ($data === false || $path[0] !== '/') {
                Path::check($path);
            } else {
                $nodes[$path] = new Node($path, $data, (string) $found[2 * $index + 1], $this->freshness);
            }
        }
        return $nodes;
    }

    /** @return ?list<string> */
    public function children(string $path, ?int $maxAge): ?array
    {
        [$names] = $this->entries(['children' . self::name($path)], [$path], $maxAge);
        if ($names === false || $path[0] !== '/') {
            Path::check($path);
            return null;
        }
        return self::decoded($names);
    }

    /**
     * @param array<string, mixed> $query `serviceName`, and the `group`, `zone` and `metadata` to filter by
     * @return list<Instance>
     */
    public function instances(array $query, ?int $maxAge): array
    {
        return self::sound("the service {$query['serviceName']}", fn () => $this->listed($query, $maxAge));
    }

    /**
     * @param array<string, mixed> $query
     * @return list<Instance>
     */
    private function listed(array $query, ?int $maxAge): array
    {
        $service = $query['serviceName'];
        $keys = ['service' . self::name($service, '/'), 'instances' . self::name($service, '/')];
        [$masters, $counts] = $found = $this->entries($keys, self::INSTANCES, $maxAge);
        // What nodes register must be read at the revision of its counts, or is read again.
        for ($try = 0; $counts !== false; $try++) {
            [$before, $numbered] = [$counts, $this->numbered($service, self::decoded($counts))];
            $found = $this->entries([...$keys, ...$numbered], self::INSTANCES, $maxAge);
            [$masters, $counts] = $found;
            if ($counts === $before) {
                break;
            }
            if ($try === self::TRIES) {
                throw new TransportFailed('it changes faster than so much can be read from it');
            }
        }
        $instances = $masters === false ? [] : self::decoded($masters);
        foreach (array_slice($found, 2) as $json) {
            if ($json !== false) {
                $instances[] = self::decoded($json);
            }
        }
        if ($masters !== false && count($found) > 2) {
            usort($instances, static fn (array $one, array $other) => Version::compare($other['version'], $one['version']));
        }
        if (isset($query['group']) || isset($query['zone']) || isset($query['metadata'])) {
            $instances = array_values(array_filter($instances, static fn (array $it) => Filter::passes($it, $query)));
        }
        return array_map(fn (array $record) => Hydrator::instance($record, $this->freshness), $instances);
    }

    /**
     * The keys of what nodes register of a service.
     *
     * @param array<string, int> $counts by version
     * @return list<string>
     */
    private function numbered(string $service, array $counts): array
    {
        foreach ($counts as $count) {
            if (!is_int($count) || $count < 0) {
                throw new TransportFailed('an entry is damaged');
            }
        }
        $this->checkCount(array_sum($counts));
        $keys = [];
        foreach ($counts as $version => $count) {
            for ($number = 0; $number < $count; $number++) {
                $keys[] = 'instance' . self::name("$service\0$version\0$number", '/');
            }
        }
        return $keys;
    }

    /** Fails if the file has no room for so many instances, so that no number in it makes a page loop for long. */
    private function checkCount(int|float $count): void
    {
        if ($count <= self::FEW_INSTANCES) {
            return;
        }
        clearstatcache(true, $this->file);
        if ($count > intdiv((int) filesize($this->file), self::MIN_INSTANCE_BYTES)) {
            throw new TransportFailed('an entry is damaged');
        }
    }

    /**
     * One callable instance; null if the file does not know which can be called.
     *
     * @param list<string> $exclude addresses that are not chosen
     */
    public function resolve(string $service, ?string $key, ?int $maxAge, array $exclude = []): ?Resolved
    {
        return self::sound("the service $service", fn () => $this->chosen($service, $key, $maxAge, $exclude));
    }

    /** @param list<string> $exclude */
    private function chosen(string $service, ?string $key, ?int $maxAge, array $exclude): ?Resolved
    {
        $keys = ['pick' . self::name($service, '/')];
        // Without a regular expression where there need not be one: compiling it would take longer than all else.
        if (str_contains($service, '@') && preg_match('/^(.+)@[\sv]*\d[^@]*$/s', $service, $versioned) === 1) {
            // A version of another service takes precedence, and only the sidecar knows which of these exist.
            $keys = [...$keys, 'service' . self::name($versioned[1], '/'), 'instances' . self::name($versioned[1], '/')];
        }
        $parts = [];
        for ($try = 0; $try <= self::TRIES; $try++) {
            $entries = $this->entries($keys, self::INSTANCES, $maxAge);
            $choice = array_shift($entries);
            if ($choice === false || $entries !== [] && array_filter($entries, is_string(...)) !== []) {
                return null;
            }
            [$look, $handle] = [$this->json, $this->checked];
            $choice = self::decoded($choice);
            $isProtected = $choice['protected'] ?? false;
            [$choice, $back] = $this->callable($choice);
            ['version' => $version, 'count' => $count, 'heaviest' => $heaviest] = $choice;
            if (!is_string($version) || !is_int($count) || $count < 1 || !is_int($heaviest)) {
                throw new TransportFailed('an entry is damaged');
            }
            $this->checkCount($count);
            $of = "$service\0$version\0";
            try {
                $chunks = $key === null && $exclude === [] ? [] : $this->chunks($of, $count);
                $others = $exclude === [] ? $back : array_fill_keys(Picks::at($chunks, $exclude), 0) + $back;
                $numbers = $key === null
                    ? $this->random($of, $count, $heaviest, $others, $maxAge)
                    : Picks::best($chunks, $heaviest, $key, $others);
            } catch (TransportFailed $failure) {
                // Entries read at two revisions are inconsistent; and a handle without its slot reads none.
                $this->entries($keys, self::INSTANCES, $maxAge);
                if ($this->json === $look && $this->checked === $handle) {
                    throw $failure;
                }
                continue;
            }
            if ($numbers === []) {
                return null;
            }
            $names = [];
            foreach ($numbers as $number) {
                $names[] = 'instance' . self::name("$of$number", '/');
            }
            $found = $this->entries($names, self::INSTANCES, $maxAge);
            if ($this->json !== $look) {
                continue;
            }
            $equal = array_map(self::decoded(...), $found);
            if (count($equal) > 1) {
                usort($equal, Hydrator::compare(...));
            }
            if ($key === null && !self::takes($equal[0], $parts)) {
                $try--;
                continue;
            }
            return Hydrator::resolved($equal[0], $service, $this->freshness, $isProtected);
        }
        throw new TransportFailed('it changes faster than so much can be read from it');
    }

    /**
     * Whether an instance that was drawn by its whole weight is chosen: as often as the part of it that counts now.
     *
     * @param list<float> $parts those of the instances that were drawn
     */
    private static function takes(array $record, array &$parts): bool
    {
        $parts[] = $part = WarmUp::part($record);
        $whole = count($parts) > self::REDRAWS ? max($parts) : 1.0;
        return $part >= $whole
            || count($parts) > 2 * self::REDRAWS
            || random_int(1, self::CHANCES) <= self::CHANCES * $part / $whole;
    }

    /**
     * The version to choose from, and the weights, by number, of instances that are no longer withheld, though this was not
     * written: if the sidecar is dead, none is withheld forever. While it lives, only the sidecar decides when that ends, by
     * a monotonic clock. If there is no other instance, those that are only ejected are used, as in the sidecar.
     *
     * @return array{array<string, mixed>, array<int, int>}
     */
    private function callable(array $choice): array
    {
        if ($this->silenceMs === 0) {
            return [$choice, []];
        }
        $versions = [...($choice['newer'] ?? []), $choice];
        $now = microtime(true) * 1_000;
        $isOver = static fn (array $it) => $now < $it[0] || $now >= $it[1];
        $weight = static fn (array $it) => $it[2];
        foreach ($versions as $among) {
            $back = array_filter($among['withheld'] ?? [], $isOver);
            if ($back !== []) {
                return [$among, array_map($weight, $back)];
            }
        }
        foreach ($versions as $among) {
            if (isset($among['ejected'])) {
                $ejected = array_intersect_key($among['withheld'] ?? [], array_flip($among['ejected']));
                return [$among, array_map($weight, $ejected)];
            }
        }
        return [$choice, []];
    }

    /**
     * The number of a random instance, each in proportion to its weight; none: none can be called.
     *
     * @param array<int, int> $others weights that differ from the written ones, by number
     * @return list<int>
     */
    private function random(string $of, int $count, int $heaviest, array $others, ?int $maxAge): array
    {
        for ($draw = 0; $draw < self::DRAWS; $draw++) {
            $number = random_int(0, $count - 1);
            $key = 'lots' . self::name($of . intdiv($number, Picks::CHUNK), '/');
            $chunk = $this->entries([$key], self::INSTANCES, $maxAge)[0];
            $weight = $others[$number] ?? Picks::weight($chunk, $number % Picks::CHUNK);
            // Otherwise draw again: so the probability is in proportion to the weight.
            if ($weight === $heaviest || random_int(0, $heaviest - 1) < $weight) {
                return [$number];
            }
        }
        $number = Picks::random($this->chunks($of, $count), $others);
        return $number === null ? [] : [$number];
    }

    /**
     * After `entries`, which checks the file. Whether these are of one revision is known after the next `entries`.
     *
     * @return list<string|false> the hashes and weights of all instances
     */
    private function chunks(string $of, int $count): array
    {
        $chunks = [];
        Quiet::begin();
        try {
            for ($chunk = 0; $chunk * Picks::CHUNK < $count; $chunk++) {
                $chunks[] = dba_fetch('lots' . self::name("$of$chunk", '/'), $this->checked);
            }
        } finally {
            Quiet::end();
        }
        return $chunks;
    }

    public function master(string $id, ?int $maxAge): ?Master
    {
        [$json] = $this->entries(['master' . self::name($id, '/')], self::MASTERS, $maxAge);
        return $json === false
            ? null
            : self::sound("the master $id", fn () => Hydrator::master(self::decoded($json), $this->freshness));
    }

    /**
     * The entries with these keys (false for missing ones), all at one revision.
     *
     * @param list<string> $keys
     * @param list<string>|string $subject the paths that they concern; or `INSTANCES`, `MASTERS`
     * @return list<string|false>
     */
    private function entries(array $keys, array|string $subject, ?int $maxAge): array
    {
        Quiet::begin();
        try {
            $found = $this->fetch($keys);
        } catch (TransportFailed $failure) {
            // The file may have been replaced, even by one of the right owner, or this process may have lost its slot
            // in LMDB's lock file.
            $found = $this->close() ? $this->fetch($keys) : throw $failure;
        } finally {
            Quiet::end();
        }
        $this->freshness = $this->silenceMs === 0 && $this->fresh !== null
            ? $this->fresh
            : self::sound('its sources', fn () => (new Report($this->report, $this->file))
                ->freshness($subject, $this->silenceMs, array_filter($found, 'is_string') !== []));
        if ($maxAge !== null && $this->freshness->ageMs > $maxAge) {
            throw new TooStale($this->freshness->ageMs, $maxAge, 'the shared file');
        }
        return $found;
    }

    private function fetch(array $keys): array
    {
        [$handle, $owner] = self::$handles[self::process()][$this->file] ?? $this->open();
        if ($handle !== $this->checked) {
            $this->owner?->check($owner);
            $this->checked = $handle;
        }
        for ($try = 0; $try <= self::TRIES; $try++) {
            $found = [];
            foreach ($keys as $key) {
                $found[] = dba_fetch($key, $handle);
            }
            $json = dba_fetch('meta/freshness', $handle);
            if ($json === $this->json) {
                $silenceMs = abs((int) (microtime(true) * 1_000) - $this->report['writtenAt']);
                $this->silenceMs = $silenceMs > self::SILENCE_MS ? $silenceMs : 0;
                return $this->silenceMs === 0 || $this->isLast
                    ? $found
                    : throw new TransportFailed("its writer has been away for $silenceMs ms");
            }
            $this->look($json);
        }
        throw new TransportFailed('it changes faster than so much can be read from it');
    }

    private function look(string|false $json): void
    {
        $report = $json === false ? throw $this->failed('it does not say how fresh it is') : json_decode($json, true);
        $numbers = [$report['revision'] ?? null, $report['ageMs'] ?? null, $report['writtenAt'] ?? null];
        if (array_filter($numbers, is_int(...)) !== $numbers || !is_array($report['sources'] ?? null)) {
            throw new TransportFailed('it does not say how fresh it is');
        }
        [$this->json, $this->report] = [$json, $report];
        $isWell = [$report['ageMs'], $report['origin'] ?? '', $report['complete'] ?? false] === [0, 'LIVE', true];
        $this->fresh = $isWell ? new Freshness($report['revision'], 0, Origin::Live, true, Transport::Shared) : null;
    }

    private function close(): bool
    {
        $process = self::process();
        $handle = self::$handles[$process][$this->file][0] ?? null;
        unset(self::$handles[$process][$this->file]);
        if ($handle !== null) {
            dba_close($handle);
            clearstatcache(true, $this->file);
        }
        return $handle !== null;
    }

    /**
     * A forked process opens the file again: LMDB's handles do not survive a fork. Under a web server nothing forks
     * during a page, and the handle outlives the page.
     */
    private static function process(): int
    {
        return PHP_SAPI === 'cli' ? getmypid() : 0;
    }

    /** @return array{resource, int|false} for `dba_fetch`, and the uid of the file's owner */
    private function open(): array
    {
        clearstatcache(true, $this->file);
        $owner = fileowner($this->file);
        $this->owner?->check($owner);
        Quiet::$warning = '';
        $handle = match (true) {
            !function_exists('dba_open') => false,
            self::lasts() => dba_popen($this->lasting(), 'r', 'lmdb'),
            default => dba_open($this->file, 'r', 'lmdb'),
        };
        if ($handle === false) {
            throw function_exists('dba_handlers') && in_array('lmdb', dba_handlers(), true)
                ? $this->failed('it cannot be opened')
                : new TransportFailed("PHP's dba extension with lmdb is not there (Debian: php-dba)");
        }
        $format = dba_fetch('meta/format', $handle);
        if ($format !== self::FORMAT) {
            $failure = $format === false
                ? $this->failed('it does not say its format')
                : new TransportFailed("its format is $format, not " . self::FORMAT);
            dba_close($handle);
            throw $failure;
        }
        return self::$handles[self::process()][$this->file] = [$handle, $owner];
    }

    /**
     * Whether what `dba_popen` opened outlives a page. Before PHP 8.4, it was closed at the end of the page; in the
     * CLI, a fork would inherit it.
     */
    private static function lasts(): bool
    {
        return PHP_VERSION_ID >= 80400 && PHP_SAPI !== 'cli';
    }

    /**
     * The file under a name that its replacement will not have, a longer form of the same path: what `dba_popen` opened
     * stays open under its name for the life of the process.
     */
    private function lasting(): string
    {
        $letters = strtr(decbin((int) fileinode($this->file)), ['0' => '/', '1' => '/.']);
        return dirname($this->file) . "$letters/" . basename($this->file);
    }

    /** The rest of an entry's key after its kind. */
    private static function name(string $name, string $slash = ''): string
    {
        return strlen($name) <= self::LONGEST_NAME ? $slash . $name : '#' . hash('sha256', $name);
    }

    private static function decoded(string|false $json): array
    {
        $decoded = json_decode((string) $json, true, flags: JSON_BIGINT_AS_STRING);
        return is_array($decoded) ? $decoded : throw new TransportFailed('an entry is damaged');
    }

    /**
     * What is read from records. One that lacks something, or has it of another kind, is for the sidecar to answer, and its
     * warnings are no application's.
     *
     * @throws TransportFailed
     */
    private static function sound(string $what, \Closure $read): mixed
    {
        Quiet::begin();
        try {
            return $read();
        } catch (\TypeError | \ValueError) {
            throw new TransportFailed("an entry of $what is damaged; `roster shared check` says more");
        } finally {
            Quiet::end();
        }
    }

    /** PHP's warning, if there was one, with the fix. */
    private function failed(string $what): TransportFailed
    {
        foreach (self::CURES as $sign => $cure) {
            if (preg_match($sign, Quiet::$warning) === 1) {
                return new TransportFailed(sprintf($cure, $this->readers()));
            }
        }
        $prefix = '/^dba_\w+\(\): (Driver initialization failed for handler: lmdb: )?/';
        $warning = preg_replace($prefix, '', Quiet::$warning);
        return new TransportFailed($warning === '' ? $what : "$what: $warning");
    }

    /** Who may read the file, or its folder if nothing in it is visible, with the fix. */
    private function readers(): string
    {
        [$found, $right] = file_exists($this->file) ? [$this->file, 0040] : [dirname($this->file), 0010];
        if (((int) fileperms($found) & $right) === 0) {
            return 'they, or a folder above, are for their owner alone: see `path`, `group` and `mode` under `[shared]`';
        }
        $group = filegroup($found);
        $known = function_exists('posix_getgrgid') ? posix_getgrgid($group) : false;
        return sprintf(
            'they are for the group %s: set `group` under `[thrift]` and `[shared]` to one of the clients, and restart the'
            . " sidecar; or let this user join it, if it is not the sidecar's own, which may read the register's token",
            $known === false ? $group : $known['name'],
        );
    }
}
