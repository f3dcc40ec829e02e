<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\InvalidRequest;
use Roster\Exception\NotReady;
use Roster\Exception\TooStale;
use Roster\Exception\Unavailable;
use Roster\Exception\TransportFailed;
use Roster\Read\Path;
use Roster\Read\SharedFile;
use Roster\Wire\Deadline;
use Roster\Wire\Endpoint;
use Roster\Wire\MasterFollower;
use Roster\Wire\MessageFollower;
use Roster\Wire\MessagePack;
use Roster\Wire\NodeFollower;
use Roster\Wire\Reporter;
use Roster\Wire\Values;
use Roster\Wire\WorkerFollower;

use const PHP_SAPI;

/**
 * Reads what this host's Roster sidecar knows, and makes calls through it.
 *
 * A read uses the first transport that leads to an answer: the shared file while its writer is alive, the Unix socket,
 * the shared file that a writer left behind, and finally TCP, if configured. What is missing is null or a default. A
 * method throws `Unavailable` if no transport led to an answer, `NotReady` if nothing is known yet, `TooStale` if
 * everything is older than `maxAge`, and `InvalidRequest` for an invalid request; all of them are `RosterException`s.
 *
 * It makes one request at a time. A signal handler that may run while one waits is to have a client of its own: what it
 * meets with the same one is in the README, under "Persistent connections".
 *
 * The class is not final so that tests can mock it; it is not meant to be extended otherwise.
 */
class Client
{
    /** The longest key by which an instance is chosen. */
    private const MAX_KEY_BYTES = 1_024;
    /** The most instances that a choice leaves out. */
    private const MAX_EXCLUDED = 64;

    private readonly ?SharedFile $file;
    /** The other transports, created on first use. */
    private ?Transports $transports = null;
    private ?Freshness $freshness = null;
    private ?Reporter $reporter = null;

    /**
     * @param non-empty-array<string, string> $places the shared file next to each Unix socket; empty: none
     * @param bool $isSought whether the socket was not given explicitly
     */
    private function __construct(
        private readonly array $places,
        private readonly bool $isSought,
        private readonly string $tcp,
        private readonly ?int $maxAge,
        private readonly ?Timeouts $timeouts,
        private readonly bool $isPersistent,
        private readonly ?object $logger,
        private readonly ?Owner $owner,
    ) {
        $shared = current($places);
        $this->file = $shared === '' ? null : new SharedFile($shared, $owner);
    }

    /**
     * Creates a client of the sidecar on this host. Nothing is opened before it is needed.
     *
     * @param ?string $socket the Unix socket, also as `unix:///path`; null: the one in /run/roster or in the user's
     *     runtime folder; empty: none
     * @param ?string $tcp host and port, also as `tcp://…`; null or empty: none
     * @param ?string $shared the shared file; null: the one next to the socket; empty: none
     * @param ?int $maxAge how many ms old an answer may be; null: any age
     * @param ?bool $persistent whether connections outlive the web request; null: except in the CLI
     * @param ?\Psr\Log\LoggerInterface $logger logs when a transport begins to fail
     * @param string|int|null $user the name or uid of the user that the sidecar runs as: anything another user put in
     *     its place is ignored; null: any user. Not checked over TCP
     */
    public static function local(
        ?string $socket = null,
        ?string $tcp = null,
        ?string $shared = null,
        ?int $maxAge = null,
        ?Timeouts $timeouts = null,
        ?bool $persistent = null,
        ?object $logger = null,
        string|int|null $user = null,
    ): self {
        self::checkAge($maxAge);
        $tcp = self::hostAndPort($tcp ?? '');
        if ($user !== null && $tcp !== '') {
            throw new InvalidRequest('user', 'over TCP nobody knows who answers; leave out `tcp`');
        }
        $sockets = $socket === null ? DefaultPaths::sockets() : [self::path($socket)];
        $places = [];
        foreach ($sockets as $path) {
            $places[$path] = $shared ?? DefaultPaths::shared($path === '' ? DefaultPaths::sockets()[0] : $path);
        }
        $persistent ??= PHP_SAPI !== 'cli';
        $owner = $user === null ? null : new Owner($user);
        return new self($places, $socket === null, $tcp, $maxAge, $timeouts, $persistent, $logger, $owner);
    }

    /**
     * Returns the node at a path.
     *
     * @template T
     * @param T $default what to return if there is none
     * @param ?int $maxAge in ms; null: that of the client
     * @return Node|T
     */
    public function get(string $path, mixed $default = null, ?int $maxAge = null): mixed
    {
        self::checkAge($maxAge);
        $node = $this->file?->node($path);
        if ($node === null) {
            return $this->read('nodes', [$path], $maxAge)[$path] ?? $default;
        }
        $this->freshness = $node->freshness;
        $this->transports?->passOver();
        return $node;
    }

    /**
     * Returns the nodes at several paths, all at one revision, without those that do not exist.
     *
     * @param array<string> $paths
     * @return array<string, Node> by path
     */
    public function getMany(array $paths, ?int $maxAge = null): array
    {
        return $this->read('nodes', array_values($paths), $maxAge);
    }

    /**
     * Returns the names of a node's children; null if there is no such node. With more than 2 MiB of names over Thrift,
     * what is added or removed meanwhile may be included or not.
     *
     * @return ?list<string>
     */
    public function children(string $path, ?int $maxAge = null): ?array
    {
        return $this->read('children', $path, $maxAge);
    }

    /**
     * Returns the instances of a service, by its name without a version. Some of them are protected if any is `held`.
     *
     * The sidecar answers for a `version` and `callable`, otherwise the shared file does.
     *
     * @param ?string $version a version requirement, as for `resolve`; null: any
     * @param array<string|int|float|bool> $metadata required metadata by key, as for `call`
     * @param bool $callable whether to return only those that `resolve` chooses from
     * @return list<Instance> newest version first; empty if there are none
     */
    public function instances(
        string|int $service,
        ?int $maxAge = null,
        ?string $version = null,
        ?string $group = null,
        ?string $zone = null,
        array $metadata = [],
        bool $callable = false,
    ): array {
        $query = ['serviceName' => (string) $service, 'group' => $group, 'zone' => $zone];
        $query['metadata'] = $metadata === [] ? null : Values::metadata($metadata);
        if ($version === null && !$callable) {
            return $this->read('instances', $query, $maxAge);
        }
        self::checkAge($maxAge);
        $maxAge ??= $this->maxAge;
        $query += ['version' => $version, 'callable' => $callable];
        return $this->consult(
            static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->instances($query, $maxAge, $deadline),
        );
    }

    /**
     * Returns one callable instance of a service; the same one for the same key, as long as it exists.
     *
     * If only the service, a key and what to exclude are given, the shared file answers, unless masters offer the service:
     * only the sidecar knows which of them are connected right now.
     *
     * @param string|int $service its name without a version
     * @param ?string $version a version requirement in Composer's syntax, such as `^1.2`, or a registered version that is
     *     none by semver, such as `1.0.0.daily`; null: the newest with a callable instance
     * @param ?string $group null: any; empty: only those without one
     * @param array<string|int|float|bool> $metadata required metadata by key, as for `call`
     * @param ?Balance $balance null: by the key, or else `Random`
     * @param ?string $preferZone the caller's zone: instances elsewhere are not chosen while enough of it can be called
     * @param ?int $subset choose from a subset of this size, the same for the same `subsetKey` while its instances
     *     exist
     * @param ?string $subsetKey the owner of the subset; null: this host
     * @param array<string|Resolved|Instance> $exclude instances that are not chosen, since a call of them has just failed, or
     *     the addresses of such (`$resolved->address()`); at most 64
     * @throws Exception\NoInstance if there is none
     */
    public function resolve(
        string|int $service,
        string|int|null $key = null,
        ?string $version = null,
        ?string $group = null,
        ?string $zone = null,
        array $metadata = [],
        ?Balance $balance = null,
        ?string $preferZone = null,
        ?int $subset = null,
        ?string $subsetKey = null,
        ?int $maxAge = null,
        array $exclude = [],
    ): Resolved {
        self::checkAge($maxAge);
        $maxAge ??= $this->maxAge;
        $request = self::wanted(
            $service,
            $key,
            $version,
            $group,
            $zone,
            $metadata,
            $balance,
            $preferZone,
            $subset,
            $subsetKey,
            $exclude,
        );
        $found = $this->resolvedByFile([$request], $maxAge);
        if ($found !== null) {
            return $found[0];
        }
        $asked = ['maxAgeMs' => $maxAge] + $request;
        try {
            return $this->consult(static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->resolve($asked, $deadline));
        } catch (Unavailable $failure) {
            return $this->resolvedAsLeft([$request], $maxAge)[0] ?? throw $failure;
        }
    }

    /**
     * Returns several instances at one revision, at most 64. If there is none for a request, it gets an exception
     * instead.
     *
     * @param array<string|int|array<string, mixed>> $requests each the name of a service, or the named arguments of
     *     `resolve` but for `maxAge`: `['service' => 'user-service', 'key' => $id]`
     * @return array<Resolved|Exception\NoInstance> with the keys of the requests
     */
    public function resolveMany(array $requests, ?int $maxAge = null): array
    {
        self::checkAge($maxAge);
        $maxAge ??= $this->maxAge;
        if (count($requests) > 64) {
            throw new InvalidRequest('requests', 'more than 64 of them');
        }
        $wanted = [];
        foreach ($requests as $key => $request) {
            try {
                $wanted[] = self::wanted(...(is_array($request) ? $request : ['service' => $request]));
            } catch (InvalidRequest $mistake) {
                throw $mistake->within("requests[$key]");
            } catch (\Error $mistake) {
                throw new InvalidRequest("requests[$key]", $mistake->getMessage());
            }
        }
        $found = $wanted === [] ? [] : $this->resolvedByFile($wanted, $maxAge);
        try {
            $found ??= $this->consult(
                static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->resolveMany($wanted, $maxAge, $deadline),
            );
        } catch (Unavailable $failure) {
            $found = $this->resolvedAsLeft($wanted, $maxAge) ?? throw $failure;
        }
        return array_combine(array_keys($requests), $found);
    }

    /**
     * Reports the result of a call to an instance to the sidecar: if several fail, all of this host's clients choose
     * other instances for a while.
     *
     * This neither waits nor fails: all reports are sent together at the end of the page, in a process that goes on with the
     * first one that is made more than a second later.
     *
     * @param ?int $durationMs how long the call took
     */
    public function report(Resolved|Instance $instance, bool $ok, ?int $durationMs = null): void
    {
        $sockets = array_values(array_filter(array_map(strval(...), array_keys($this->places))));
        $this->reporter ??= Reporter::of($sockets, $this->owner);
        $this->reporter->add($instance->serviceName, $instance->address(), $ok, $durationMs);
    }

    /**
     * Builds a `ResolveRequest` from the arguments of `resolve`.
     *
     * @return array<string, mixed>
     */
    private static function wanted(
        string|int $service,
        string|int|null $key = null,
        ?string $version = null,
        ?string $group = null,
        ?string $zone = null,
        array $metadata = [],
        ?Balance $balance = null,
        ?string $preferZone = null,
        ?int $subset = null,
        ?string $subsetKey = null,
        array $exclude = [],
    ): array {
        if ($service === '') {
            throw new InvalidRequest('service', 'it is empty');
        }
        // As the sidecar does it, which is asked only where the shared file does not do.
        foreach (['key' => $key, 'subsetKey' => $subsetKey] as $name => $value) {
            if (strlen((string) $value) > self::MAX_KEY_BYTES) {
                $most = self::MAX_KEY_BYTES;
                throw new InvalidRequest($name, "longer than $most bytes; give a hash of it");
            }
        }
        return [
            'serviceName' => (string) $service,
            'version' => $version,
            'group' => $group,
            'zone' => $zone,
            'metadata' => $metadata === [] ? null : Values::metadata($metadata),
            'balance' => $balance?->value,
            'key' => $key === null ? null : (string) $key,
            'preferZone' => $preferZone,
            'subset' => $subset,
            'subsetKey' => $subset === null ? null : $subsetKey ?? gethostname(),
            'exclude' => $exclude === [] ? null : self::addresses($exclude),
        ];
    }

    /**
     * @param array<string|Resolved|Instance> $exclude
     * @return list<string>
     */
    private static function addresses(array $exclude): array
    {
        if (count($exclude) > self::MAX_EXCLUDED) {
            throw new InvalidRequest('exclude', 'more than ' . self::MAX_EXCLUDED . ' of them');
        }
        $address = static fn (string|Resolved|Instance $it) => is_string($it) ? $it : $it->address();
        $addresses = array_map($address, array_values($exclude));
        if (max(array_map(strlen(...), $addresses)) > self::MAX_KEY_BYTES) {
            throw new InvalidRequest('exclude', 'one is longer than ' . self::MAX_KEY_BYTES . ' bytes');
        }
        return $addresses;
    }

    /**
     * Returns the shared file's answer; null if the sidecar must be asked.
     *
     * @param non-empty-list<array<string, mixed>> $wanted
     * @return ?non-empty-list<Resolved>
     */
    private function resolvedByFile(array $wanted, ?int $maxAge): ?array
    {
        try {
            $found = $this->file === null ? null : self::resolvedBy($this->file, $wanted, $maxAge);
        } catch (TransportFailed | NotReady | TooStale) {
            return null;
        }
        if ($found !== null) {
            $this->freshness = $found[0]->freshness;
            $this->transports?->passOver();
        }
        return $found;
    }

    /**
     * The same from the file that a writer left behind, if no sidecar answers: of several files, from the first that
     * resolves all, or else from the one that resolves most; null if none resolves any.
     *
     * @param non-empty-list<array<string, mixed>> $wanted
     * @return ?non-empty-list<Resolved|Exception\NoInstance>
     */
    private function resolvedAsLeft(array $wanted, ?int $maxAge): ?array
    {
        [$best, $most, $stale] = [null, 0, null];
        foreach (array_unique(array_filter($this->places)) as $file) {
            try {
                $found = self::resolvedBy(new SharedFile($file, $this->owner, isLast: true), $wanted, $maxAge);
            } catch (TransportFailed) {
                continue;
            } catch (TooStale $old) {
                $stale = $stale === null || $old->ageMs < $stale->ageMs ? $old : $stale;
                continue;
            }
            $resolved = array_filter($found ?? [], static fn (object $it) => $it instanceof Resolved);
            if (count($resolved) > $most) {
                [$best, $most, $this->freshness] = [$found, count($resolved), reset($resolved)->freshness];
            }
            if ($most === count($wanted)) {
                break;
            }
        }
        return $best ?? ($stale === null ? null : throw $stale);
    }

    /**
     * Resolves all at one revision; null if the file cannot answer all of them. One that a writer left behind is all that
     * there is: what it cannot answer keeps nothing else from its answer.
     *
     * @param non-empty-list<array<string, mixed>> $wanted
     * @return ?non-empty-list<Resolved|Exception\NoInstance>
     */
    private static function resolvedBy(SharedFile $file, array $wanted, ?int $maxAge): ?array
    {
        for ($try = 0; $try < 3; $try++) {
            [$found, $revision] = [[], null];
            foreach ($wanted as $request) {
                $one = $file->isLast
                    ? self::resolvedByLast($file, $request, $maxAge)
                    : self::resolvedByOne($file, $request, $maxAge);
                if ($one === null) {
                    return null;
                }
                if ($one instanceof Resolved) {
                    $revision ??= $one->freshness->revision;
                    if ($one->freshness->revision !== $revision) {
                        continue 2;
                    }
                }
                $found[] = $one;
            }
            return $found;
        }
        return null;
    }

    /** @param array<string, mixed> $request */
    private static function resolvedByOne(SharedFile $file, array $request, ?int $maxAge): ?Resolved
    {
        $given = count($request) - count(array_keys($request, null, true));
        return $given > 1 + (int) ($request['key'] !== null) + (int) ($request['exclude'] !== null)
            ? null
            : $file->resolve($request['serviceName'], $request['key'], $maxAge, $request['exclude'] ?? []);
    }

    /** @param array<string, mixed> $request */
    private static function resolvedByLast(SharedFile $file, array $request, ?int $maxAge): Resolved|Exception\NoInstance
    {
        $service = $request['serviceName'];
        $by = array_keys(array_filter($request, static fn (mixed $it) => $it !== null));
        $by = implode('`, `', array_diff($by, ['serviceName', 'key', 'subsetKey', 'exclude']));
        if ($by !== '') {
            $why = "of $service no instance is chosen: only a sidecar chooses by `$by`, and none answers";
            return new Exception\NoInstance($service, $why);
        }
        $why = 'the shared file that it left does not say which instance can be called of it';
        try {
            $one = self::resolvedByOne($file, $request, $maxAge);
            $why = $one === null ? self::whyNone($file, $request, $maxAge) ?? $why : '';
        } catch (NotReady $unknown) {
            $why = $unknown->getMessage();
        } catch (TransportFailed $failure) {
            // An entry is damaged, unless nothing of the file can be read.
            $why = isset($file->freshness) ? $failure->getMessage() : throw $failure;
        }
        return $one ?? new Exception\NoInstance($service, "of $service no instance is known: no sidecar answers, and $why");
    }

    /**
     * Why the shared file that was left has no instance to choose; null: it does not say.
     *
     * @param array<string, mixed> $request
     */
    private static function whyNone(SharedFile $file, array $request, ?int $maxAge): ?string
    {
        if ($request['exclude'] !== null && self::resolvedByOne($file, ['exclude' => null] + $request, $maxAge) !== null) {
            return 'every instance that the shared file has left to choose from is excluded by the request';
        }
        $known = $file->instances(['serviceName' => $request['serviceName']], $maxAge);
        $down = count(array_filter($known, static fn (Instance $it) => $it->state === InstanceState::Down));
        $are = $down === 1 ? 'is' : 'are';
        return $down === 0 ? null : 'of ' . count($known) . " in the shared file that it left $down $are DOWN";
    }

    /** Returns a master by its id; null if it does not exist. */
    public function master(string|int $id, ?int $maxAge = null): ?Master
    {
        return $this->read('master', (string) $id, $maxAge);
    }

    /**
     * Returns all masters, from the sidecar: PHP cannot list a part of the shared file.
     *
     * @param string|int|null $service only those that offer it
     * @param array<string|int|float|bool> $metadata required metadata of one of their services by key, as for `call`
     * @return list<Master> ordered by id
     */
    public function masters(string|int|null $service = null, ?int $maxAge = null, array $metadata = []): array
    {
        self::checkAge($maxAge);
        $maxAge ??= $this->maxAge;
        return $this->consult(
            static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->masters(
                $service === null ? null : (string) $service,
                $metadata,
                $maxAge,
                $deadline,
            ),
        );
    }

    /**
     * Returns the services on offer, from the sidecar.
     *
     * @param array<string|int|float|bool> $metadata required metadata by key, as for `call`
     * @return array<array<string, int>> how many instances of each there are, masters and others, by name and version,
     *     newest first. PHP turns the key of a name such as `7` into an int; every method accepts that
     */
    public function services(?int $maxAge = null, array $metadata = []): array
    {
        self::checkAge($maxAge);
        $maxAge ??= $this->maxAge;
        return $this->consult(
            static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->services($metadata, $maxAge, $deadline),
        );
    }

    /** Returns what the sidecar is doing. */
    public function status(): Status
    {
        return $this->consult(static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->status($deadline));
    }

    /**
     * Calls a method of a service, on one of the masters that offer it.
     *
     * The client never sends it twice unless it is idempotent, whatever happens to the connection.
     *
     * @param array<mixed> $args a list, or values by parameter name
     * @param int $timeoutMs how long all attempts may take together
     * @param int $retries how often it may be retried on another master, if that is safe
     * @param bool $idempotent whether it may safely be executed twice
     * @param ?string $version a version requirement in Composer's syntax, such as `^1.2`; null: the newest
     * @param ?Balance $balance null: by the key, or else `LeastOutstanding`
     * @param string|int|null $key the same master for the same key, as long as it offers the service
     * @param bool $allValues whether to return every value of a method with many, or only the last one
     * @param array<string|int|float|bool> $metadata the service's required metadata by key: strings as they are, other
     *     values as their JSON text
     * @throws Exception\NoMaster if no master offers the service
     * @throws Exception\CallFailed with the master's own error; `lost` if it is unknown whether it was executed
     * @throws Exception\CallTimedOut if there was no answer in time
     * @throws Exception\Overloaded if too many calls are under way
     */
    public function call(
        string|int $service,
        string $method,
        array $args = [],
        int $timeoutMs = 5_000,
        int $retries = 2,
        bool $idempotent = false,
        ?string $version = null,
        ?Balance $balance = null,
        string|int|null $key = null,
        bool $allValues = false,
        array $metadata = [],
    ): CallResult {
        $call = new Call(
            $service,
            $method,
            $args,
            $timeoutMs,
            $retries,
            $idempotent,
            $version,
            $balance,
            $key,
            $allValues,
        );
        return $this->transports()->consult(static fn (Endpoint $endpoint) => $endpoint->call($call, metadata: $metadata));
    }

    /**
     * The same on one master, given by id: such as the one that answered before, for what only it knows.
     *
     * @param array<mixed> $args
     * @throws Exception\NoMaster if it is not connected, or does not offer the service
     */
    public function callOn(
        string|int $master,
        string|int $service,
        string $method,
        array $args = [],
        int $timeoutMs = 5_000,
        bool $idempotent = false,
        bool $allValues = false,
    ): CallResult {
        $call = new Call(
            $service,
            $method,
            $args,
            $timeoutMs,
            idempotent: $idempotent,
            allValues: $allValues,
        );
        return $this->transports()->consult(static fn (Endpoint $endpoint) => $endpoint->call($call, (string) $master));
    }

    /**
     * Calls a method that returns many values, and yields each as soon as it arrives.
     *
     * The call is sent when the first value is requested, over a separate connection. Ending the iteration early aborts
     * it. Once it has yielded a value, no other master is tried; it may still fail. Arguments and exceptions are those
     * of `call`, without `metadata`.
     *
     * @param array<mixed> $args
     * @param int $timeoutMs how long all values may take together
     * @param string|int|null $master the id of the only acceptable master; null: any that offers the service
     * @param ?iterable<mixed> $input values to send to the method while it runs, through a stream parameter: only a PHP
     *     master of reactphp-x/register-center at this sidecar's own register supports that, no `Roster\Worker`, and no other
     *     master is tried
     * @return \Generator<int, mixed>
     */
    public function stream(
        string|int $service,
        string $method,
        array $args = [],
        int $timeoutMs = 5_000,
        int $retries = 2,
        bool $idempotent = false,
        ?string $version = null,
        ?Balance $balance = null,
        string|int|null $key = null,
        string|int|null $master = null,
        ?iterable $input = null,
    ): \Generator {
        $call = new Call($service, $method, $args, $timeoutMs, $retries, $idempotent, $version, $balance, $key);
        $master = $master === null ? null : (string) $master;
        return $input === null
            ? $this->transports()->stream($call, $master)
            : $this->transports()->exchange($call, $master, $input);
    }

    /**
     * Calls a method on every master that offers the service. Each may fail separately; arguments as for `call`, of
     * which some have no meaning here.
     *
     * @param array<mixed> $args
     * @param ?string $version null: any
     * @return list<CallOutcome> one per master
     * @throws Exception\NoMaster if no master offers the service
     */
    public function callAll(
        string|int $service,
        string $method,
        array $args = [],
        int $timeoutMs = 5_000,
        bool $idempotent = false,
        ?string $version = null,
        bool $allValues = false,
    ): array {
        $call = new Call(
            $service,
            $method,
            $args,
            $timeoutMs,
            idempotent: $idempotent,
            version: $version,
            allValues: $allValues,
        );
        return $this->transports()->consult(static fn (Endpoint $endpoint) => $endpoint->callAll($call));
    }

    /**
     * Makes several calls concurrently. Each may fail separately.
     *
     * @param array<Call> $calls
     * @return array<CallOutcome> with the keys of the calls
     */
    public function callMany(array $calls): array
    {
        self::checkEach('calls', $calls, Call::class);
        $outcomes = $this->transports()->consult(static fn (Endpoint $endpoint) => $endpoint->callMany(array_values($calls)));
        return array_combine(array_keys($calls), $outcomes);
    }

    /**
     * Makes several calls on one master, each after the previous one has ended, in one round trip to the sidecar.
     *
     * After one that was lost or timed out, no more are sent. Otherwise each may fail separately, and the rest is sent.
     *
     * @param array<Call> $calls
     * @param string|int|null $master the id of the master; null: one that offers the service of the first call
     * @return array<CallOutcome> with the keys of the calls
     */
    public function callInOrder(array $calls, string|int|null $master = null): array
    {
        self::checkEach('calls', $calls, Call::class);
        $master = $master === null ? null : (string) $master;
        $outcomes = $this->transports()->consult(
            static fn (Endpoint $endpoint) => $endpoint->callInOrder(array_values($calls), $master),
        );
        return array_combine(array_keys($calls), $outcomes);
    }

    /**
     * Enqueues a job, which is kept on the disk until it has been performed. When this returns, it is there.
     *
     * A `CallFailed` that is `lost`, and a `CallTimedOut`, leave it unknown: with `unique` it is safe to do it again
     * while the first one is not done (with `untilStart`: not handed out). The client itself sends such a job once more where
     * the connection was lost.
     *
     * @param string $name what is to be done, the application's own word
     * @param mixed $args what it needs, kept as JSON
     * @param int $delayMs for how long it is not performed
     * @param ?\DateTimeInterface $at until when it is not performed, in place of a delay; what is past is now
     * @param ?int $priority from 0, the most urgent, to 9; null: 5
     * @param ?string $unique no other job of the queue with this key is enqueued until this one is done
     * @param bool $untilStart whether it is unique only until it is handed out
     * @param ?int $retries how often it is tried again if it fails; null: as the sidecar's
     *     `[[queue.default]]` says for the queue, or `queue.retries`
     * @param ?int $attemptTimeoutMs how long one attempt may take; null: as the sidecar's
     *     `[[queue.default]]` says for the queue, or `queue.timeout`
     * @param ?string $limitKey jobs with the same one share the limits that the queue has of each key
     * @param ?int $keepResultMs how long it is kept with its result once it is done; null: as the sidecar's
     *     `queue.keep_results` says
     * @param ?bool $isBuffered set to whether it waits on this host until Redis has it, as with `queue.buffer`
     * @return int its id, or that of the job which has the unique key
     * @throws Exception\Overloaded if the queues are full, or their disk fails
     */
    public function enqueue(
        string $queue,
        string $name,
        mixed $args = [],
        int $delayMs = 0,
        ?int $priority = null,
        ?string $unique = null,
        bool $untilStart = false,
        ?int $retries = null,
        ?int $attemptTimeoutMs = null,
        ?string $limitKey = null,
        ?int $keepResultMs = null,
        ?bool &$isBuffered = null,
        ?\DateTimeInterface $at = null,
    ): int {
        $job = new NewJob(
            $queue,
            $name,
            $args,
            $delayMs,
            $priority,
            $unique,
            $untilStart,
            $retries,
            $attemptTimeoutMs,
            $limitKey,
            $keepResultMs,
            $at,
        );
        return $this->enqueueMany([$job], $isBuffered)[0];
    }

    /**
     * Enqueues jobs, all of them or none, as `enqueue` does; at most 1,000.
     *
     * @param array<NewJob> $jobs
     * @param ?bool $isBuffered set to whether they wait on this host until Redis has them
     * @return array<int> their ids, with the keys of the jobs
     */
    public function enqueueMany(array $jobs, ?bool &$isBuffered = null): array
    {
        self::checkEach('jobs', $jobs, NewJob::class);
        [$ids, $isBuffered] = $this->transports()->consult(
            static fn (Endpoint $endpoint) => $endpoint->enqueue(array_values($jobs)),
        );
        return array_combine(array_keys($jobs), $ids);
    }

    /**
     * A job that this user enqueued or may perform, as it stands; null: there is none, as when it is done and not kept.
     *
     * @throws Exception\Overloaded if it is not known, as more jobs wait in Redis than are looked at, or the disk fails
     */
    public function job(int $id): ?Job
    {
        return $this->transports()->consult(static fn (Endpoint $endpoint) => $endpoint->job($id))[0];
    }

    /**
     * Removes such a job; false: there is none.
     *
     * @throws InvalidRequest if somebody performs it
     */
    public function cancelJob(int $id): bool
    {
        return $this->transports()->consult(static fn (Endpoint $endpoint) => $endpoint->cancelJob($id))[0];
    }

    /**
     * Returns the sidecar's workers, and what each is doing.
     *
     * @param ?string $worker a group, or a worker of it such as `web/2`; null: all
     * @param bool $usage whether to read the memory and CPU time of their processes too
     * @return list<WorkerReport>
     */
    public function workers(?string $worker = null, bool $usage = false): array
    {
        $ask = static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->workers($worker, $usage, $deadline);
        return $this->transports()->consult($ask)->value;
    }

    /**
     * Sends a command to the sidecar's workers, concurrently: `ping`, `status`, or one that they add by
     * `Worker::onCommand`. One that hangs only affects its own answer. For administrators.
     *
     * @param mixed $data the command's argument
     * @param ?string $worker a group, or a worker of it such as `web/2`; null: all
     * @param int $timeoutMs how long each may take
     * @return list<WorkerAnswer> one per worker
     */
    public function commandWorkers(
        string $command,
        mixed $data = null,
        ?string $worker = null,
        int $timeoutMs = 5_000,
    ): array {
        try {
            $data = MessagePack::pack($data);
        } catch (\InvalidArgumentException $error) {
            throw new InvalidRequest('data', "it cannot be sent: {$error->getMessage()}");
        }
        return $this->transports()->consult(
            static fn (Endpoint $endpoint) => $endpoint->commandWorkers($command, $data, $worker, $timeoutMs),
        );
    }

    /**
     * Adds a worker to those of the sidecar's configuration, and waits until its processes are ready. It is added even
     * if one does not become ready. For root and the sidecar's own user.
     *
     * @param list<string> $command the program and its arguments; no shell interprets them
     * @param array<string, mixed> $settings as in a `[[worker]]`, such as `['count' => 2, 'stop_timeout' => '1m']`
     * @param bool $save whether it is added again when the sidecar restarts
     * @param int $timeoutMs how long to wait
     * @return list<WorkerOutcome> one per process
     */
    public function addWorker(
        string $name,
        array $command,
        array $settings = [],
        bool $save = false,
        int $timeoutMs = 60_000,
    ): array {
        try {
            $settings = json_encode(
                ['name' => $name, 'command' => array_values($command)] + $settings,
                JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION,
            );
        } catch (\JsonException $error) {
            throw new InvalidRequest('settings', "they are no JSON: {$error->getMessage()}");
        }
        return $this->transports()->consult(
            static fn (Endpoint $endpoint) => $endpoint->addWorker($settings, $save, $timeoutMs),
        );
    }

    /**
     * Removes a worker, including what was saved of it, and waits until its processes have ended. One in the
     * configuration is back when the sidecar restarts. For root and the sidecar's own user.
     *
     * @param bool $savedOnly whether to only forget what was saved, and let it run
     * @param int $timeoutMs how long to wait
     * @return list<WorkerOutcome> one per process
     */
    public function removeWorker(string $name, bool $savedOnly = false, int $timeoutMs = 60_000): array
    {
        return $this->transports()->consult(
            static fn (Endpoint $endpoint) => $endpoint->removeWorker($name, $savedOnly, $timeoutMs),
        );
    }

    /**
     * Yields the existing nodes, then every change, forever: for workers in the CLI.
     *
     * No change is missed, even across restarts of the sidecar, which are waited for. If the sidecar no longer knows
     * what changed, it yields a `Reset`, and then the current state again. Changes made meanwhile may be reported
     * twice.
     *
     * @param string|list<string> $paths what to watch, including everything below
     * @param int $waitMs how long to wait for a change before calling `$until` again
     * @param ?callable(): bool $until true ends the watch
     * @return \Generator<int, Change>
     * @throws Exception\Unavailable if the sidecar was never reached, or its answers cannot be read over and over again
     */
    public function watch(string|array $paths = '/', int $waitMs = 10_000, ?callable $until = null): \Generator
    {
        $paths = array_values((array) $paths);
        Path::check(...$paths);
        return (new NodeFollower($this->transports()->consultant(), $paths, $waitMs, $until))->changes();
    }

    /**
     * Like `watch`, for masters.
     *
     * @param ?callable(): bool $until
     * @return \Generator<int, MasterChange>
     */
    public function watchMasters(int $waitMs = 10_000, ?callable $until = null): \Generator
    {
        return (new MasterFollower($this->transports()->consultant(), $waitMs, $until))->changes();
    }

    /**
     * Yields the commands that masters connected to this sidecar send unprompted, forever: those that it keeps, then
     * every new one, as soon as it arrives.
     *
     * @param int $waitMs how long to wait for one before calling `$until` again
     * @param ?callable(): bool $until true ends the watch
     * @return \Generator<int, MasterMessage> one without a master says how many were missed,
     *     or could not be read
     */
    public function watchMessages(int $waitMs = 10_000, ?callable $until = null): \Generator
    {
        return (new MessageFollower($this->transports()->consultant(), $waitMs, $until))->changes();
    }

    /**
     * Like `watch`, for the sidecar's workers: their states, processes, and the reasons.
     *
     * @param ?callable(): bool $until
     * @return \Generator<int, WorkerChange>
     */
    public function watchWorkers(int $waitMs = 10_000, ?callable $until = null): \Generator
    {
        return (new WorkerFollower($this->transports()->consultant(), $waitMs, $until))->changes();
    }

    /** How far the last answer can be trusted, even an absence; null before the first. */
    public function freshness(): ?Freshness
    {
        return $this->freshness;
    }

    /**
     * Returns the transports in order, and the result of each in the last request.
     *
     * @param bool $try whether to try each of them now
     * @return list<Attempt>
     */
    public function explain(bool $try = false): array
    {
        return $try ? $this->transports()->tried() : $this->transports()->attempts();
    }

    /** The shared file's answer, or else that of another transport. */
    private function read(string $question, string|array $of, ?int $maxAge): mixed
    {
        self::checkAge($maxAge);
        $maxAge ??= $this->maxAge;
        $failure = null;
        if ($this->file !== null) {
            try {
                $found = $this->file->$question($of, $maxAge);
                $this->freshness = $this->file->freshness;
                $this->transports?->passOver();
                return $found;
            } catch (TransportFailed | NotReady | TooStale $failure) {
            }
        }
        $answer = $this->transports()->read($question, $of, $maxAge, $failure);
        $this->freshness = $answer->freshness;
        return $answer->value;
    }

    /** Without a regular expression: compiling it would take longer than everything else in a first read. */
    private static function path(string $socket): string
    {
        $path = str_starts_with($socket, 'unix:///') ? substr($socket, strlen('unix://')) : $socket;
        if ($path !== '' && $path[0] !== '/') {
            $why = "`$socket` is neither an absolute path nor `unix:///…`; an address goes to `tcp:`";
            throw new InvalidRequest('socket', $why);
        }
        return $path;
    }

    private static function hostAndPort(string $tcp): string
    {
        $address = trim($tcp);
        $address = str_starts_with($address, 'tcp://') ? substr($address, strlen('tcp://')) : $address;
        // PHP takes what follows a slash for the name of a persistent connection.
        if ($address !== '' && preg_match('~^(\[[^\s\[\]/]+\]|[^\s\[\]/:]+):\d{1,5}(/\S*)?$~D', $address) !== 1) {
            throw new InvalidRequest('tcp', "`$tcp` is no host and port, such as `127.0.0.1:9090`");
        }
        return $address;
    }

    /** @throws InvalidRequest */
    private static function checkAge(?int $maxAge): void
    {
        if ($maxAge !== null && $maxAge < 0) {
            throw new InvalidRequest('maxAge', "$maxAge ms are less than none");
        }
    }

    /**
     * @param class-string $class
     * @throws InvalidRequest
     */
    private static function checkEach(string $what, array $given, string $class): void
    {
        foreach ($given as $key => $one) {
            if (!$one instanceof $class) {
                throw new InvalidRequest("{$what}[$key]", 'it is ' . get_debug_type($one) . ", no $class");
            }
        }
    }

    /** The sidecar's own answer. */
    private function consult(callable $question): mixed
    {
        $answer = $this->transports()->consult($question);
        $this->freshness = $answer->freshness;
        return $answer->value;
    }

    private function transports(): Transports
    {
        if ($this->transports === null) {
            $timeouts = $this->timeouts ?? new Timeouts();
            $to = [$this->places, $this->isSought, $this->tcp, $this->owner];
            $this->transports = new Transports(...$to, ...[$timeouts, $this->isPersistent, $this->logger]);
            if ($this->freshness !== null) {
                $this->transports->passOver();
            }
        }
        return $this->transports;
    }
}
