<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\TooStale;
use Roster\Exception\WayFailed;
use Roster\Node;
use Roster\Stat;
use Roster\Way;
use Roster\Wire\Deadline;

/**
 * Reads what the sidecar keeps in its shared file, in microseconds and without a call.
 *
 * Each fetch sees the newest state, so what belongs together is read between two looks at `meta/freshness`, which
 * every change rewrites: where both are the same, nothing changed in between. An earlier read's look serves as first.
 *
 * @internal
 */
final class SharedFile implements Reader
{
    private const TRIES = 8;

    private readonly Database $database;
    private string $json = '';
    private ?Report $report = null;

    /** @param bool $isLast whether to read it also where its writer is away: for when all else has failed */
    public function __construct(private readonly string $file, private readonly bool $isLast)
    {
        $this->database = new Database($file);
    }

    public function way(): Way
    {
        return Way::Shared;
    }

    public function target(): string
    {
        return $this->file . ($this->isLast ? ' as it was left' : '');
    }

    public function nodes(array $paths, ?int $maxAge, Deadline $deadline): Answer
    {
        $found = $this->read(static function ($handle) use ($paths): array {
            $found = [];
            foreach ($paths as $path) {
                $data = @dba_fetch(Database::key('node', $path), $handle);
                if ($data !== false) {
                    $found[$path] = [$data, @dba_fetch(Database::key('stat', $path), $handle)];
                }
            }
            return $found;
        });
        $freshness = $this->report->freshness($paths);
        self::check($freshness->ageMs, $maxAge);
        $nodes = [];
        foreach ($found as $path => [$data, $stat]) {
            $stat = json_decode((string) $stat, true) ?? throw new WayFailed("the stat of $path is damaged");
            $nodes[$path] = new Node($path, $data, Stat::of($stat), $freshness);
        }
        return new Answer($nodes, $freshness);
    }

    public function children(string $path, ?int $maxAge, Deadline $deadline): Answer
    {
        $names = $this->read(static fn ($handle) => @dba_fetch(Database::key('children', $path), $handle));
        $freshness = $this->report->freshness([$path]);
        self::check($freshness->ageMs, $maxAge);
        return new Answer($names === false ? null : json_decode($names, true), $freshness);
    }

    /** What `$fetch` gets, all of one revision, with `$report` of the same. */
    private function read(callable $fetch): mixed
    {
        try {
            return $this->attempt($fetch);
        } catch (WayFailed $failure) {
            // The file may have been replaced, or the place of this process in LMDB's lock file was lost.
            return $this->database->close() ? $this->attempt($fetch) : throw $failure;
        }
    }

    private function attempt(callable $fetch): mixed
    {
        $handle = $this->database->handle();
        for ($try = 0; $try <= self::TRIES; $try++) {
            $found = $fetch($handle);
            $json = @dba_fetch('meta/freshness', $handle);
            if ($json === false) {
                throw new WayFailed(Database::reason('it does not say how fresh it is'));
            }
            if ($json === $this->json) {
                $this->report ??= Report::parse($json) ?? throw new WayFailed('it does not say how fresh it is');
                $this->checkWriter();
                return $found;
            }
            $this->json = $json;
            $this->report = null;
        }
        throw new WayFailed('it changes faster than so much can be read from it');
    }

    private function checkWriter(): void
    {
        if (!$this->isLast && ($silence = $this->report->silenceMs()) > 0) {
            throw new WayFailed("its writer has been away for $silence ms");
        }
    }

    private static function check(int $ageMs, ?int $maxAge): void
    {
        if ($maxAge !== null && $ageMs > $maxAge) {
            throw new TooStale($ageMs, $maxAge, 'the shared file');
        }
    }
}
