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
 * What this host's Roster sidecar knows, and calls through it.
 *
 * A read takes the first transport that leads to an answer: the shared file while its writer lives, the Unix socket, the
 * shared file as a writer left it, and at last TCP, where it is configured. What is missing is null or a default. A
 * method throws `Unavailable` if no transport led to an answer, `NotReady` if nothing is known yet, `TooStale` if all is
 * older than `maxAge`, and `InvalidRequest` for a request that makes no sense; all of them are `RosterException`s.
 *
 * It is not final so that tests can put a mock in its place, and not meant to be extended otherwise.
 */
class Client
{
    private readonly ?SharedFile $file;
    /** The other transports, when they are first needed. */
    private ?Transports $transports = null;
    private ?Freshness $freshness = null;
    private ?Reporter $reporter = null;

    /**
     * @param non-empty-array<string, string> $places the shared file beside each Unix socket; empty: none
     * @param bool $isSought whether nobody said which socket
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
     * A client of the sidecar on this host. Nothing is opened before it is needed.
     *
     * @param ?string $socket the Unix socket, also as `unix:///path`; null: that in /run/roster or the user's runtime
     *     folder; empty: none
     * @param ?string $tcp host and port; null or empty: none
     * @param ?string $shared the shared file; null: that beside the socket; empty: none
     * @param ?int $maxAge how many ms old an answer may be; null: any age will do
     * @param ?bool $persistent whether connections outlive the web request; null: except in the CLI
     * @param ?\Psr\Log\LoggerInterface $logger logs when a transport begins to fail
     * @param string|int|null $user the name or uid of the user as whom the sidecar runs: what another one put in its
     *     place is passed over; null: whoever it is. Over TCP nobody knows
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
        $tcp ??= '';
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
     * The node at a path.
     *
     * @template T
     * @param T $default what to give where there is none
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
     * The nodes at several paths, all of one revision; those that are not there are left out.
     *
     * @param list<string> $paths
     * @return array<string, Node> by path
     */
    public function getMany(array $paths, ?int $maxAge = null): array
    {
        return $this->read('nodes', $paths, $maxAge);
    }

    /**
     * The names of a node's children; null if there is no such node. Of more than 2 MiB of names over Thrift, what comes
     * or goes meanwhile may be among them or not.
     *
     * @return ?list<string>
     */
    public function children(string $path, ?int $maxAge = null): ?array
    {
        return $this->read('children', $path, $maxAge);
    }

    /**
     * Who offers a service, by its name without a version.
     *
     * @return list<Instance> the newest version first; empty if nobody does
     */
    public function instances(string|int $service, ?int $maxAge = null): array
    {
        return $this->read('instances', (string) $service, $maxAge);
    }

    /**
     * One instance of a service that can be called; the same one for the same key, as long as it is there.
     *
     * Where nothing but the service and a key is asked for, the shared file answers, unless masters offer the service: which
     * of them is connected just now, the sidecar alone knows.
     *
     * @param string|int $service its name without a version
     * @param ?string $version a requirement of versions as Composer writes them, such as `^1.2`; null: the newest of which one
     *     can be called
     * @param array<string|int|float|bool> $metadata by key, what it must have, as of `call`
     * @param ?Balance $balance null: by the key, or else `Random`
     * @param ?string $preferZone the zone of the caller: none elsewhere is chosen as long as enough of it can be called
     * @param ?int $subset choose among so many, the same for the same `subsetKey` as long as they are there
     * @param ?string $subsetKey who chooses; null: this host
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
    ): Resolved {
        self::checkAge($maxAge);
        $maxAge ??= $this->maxAge;
        $request = self::wanted($service, $key, $version, $group, $zone, $metadata, $balance, $preferZone, $subset, $subsetKey);
        $found = $this->resolvedByFile([$request], $maxAge);
        if ($found !== null) {
            return $found[0];
        }
        $request['maxAgeMs'] = $maxAge;
        try {
            return $this->consult(static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->resolve($request, $deadline));
        } catch (Unavailable $failure) {
            return $this->resolvedAsLeft([$request], $maxAge)[0] ?? throw $failure;
        }
    }

    /**
     * Several instances at one revision, at most 64. Where there is none of one, that is told in its place.
     *
     * @param array<string|int|array<string, mixed>> $requests each the name of a service, or what `resolve` is given, by name:
     *     `['service' => 'user-service', 'key' => $id]`
     * @return array<Resolved|Exception\NoInstance> with the keys of the requests
     */
    public function resolveMany(array $requests, ?int $maxAge = null): array
    {
        self::checkAge($maxAge);
        $maxAge ??= $this->maxAge;
        if (count($requests) > 64) {
            throw new InvalidRequest('requests', 'more than 64 of them');
        }
        try {
            $wanted = static fn (string|int|array $it) => self::wanted(...(is_array($it) ? $it : ['service' => $it]));
            $wanted = array_map($wanted, array_values($requests));
        } catch (\Error $mistake) {
            throw new InvalidRequest('requests', $mistake->getMessage());
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
     * Tells the sidecar what a call of an instance came to: where several fail, all of this host's clients choose others for
     * a time.
     *
     * Nothing is waited for, and nothing fails: it is sent at the end of the page, with all others.
     *
     * @param ?int $durationMs how long the call took
     */
    public function report(Resolved|Instance $instance, bool $ok, ?int $durationMs = null): void
    {
        $sockets = array_values(array_filter(array_map(strval(...), array_keys($this->places))));
        $this->reporter ??= new Reporter($sockets, $this->owner);
        $this->reporter->add($instance->serviceName, $instance->address(), $ok, $durationMs);
    }

    /**
     * A `ResolveRequest`, from the arguments of `resolve`.
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
    ): array {
        return [
            'serviceName' => (string) $service,
            'version' => $version,
            'group' => $group,
            'zone' => $zone,
            'metadata' => Values::metadata($metadata),
            'balance' => $balance?->value,
            'key' => $key === null ? null : (string) $key,
            'preferZone' => $preferZone,
            'subset' => $subset,
            'subsetKey' => $subset === null ? null : $subsetKey ?? gethostname(),
        ];
    }

    /**
     * What the shared file answers; null where the sidecar must be asked.
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
     * The same from the file as a writer left it, where no sidecar answers.
     *
     * @param non-empty-list<array<string, mixed>> $wanted
     * @return ?non-empty-list<Resolved>
     */
    private function resolvedAsLeft(array $wanted, ?int $maxAge): ?array
    {
        foreach (array_unique(array_filter($this->places)) as $file) {
            try {
                $found = self::resolvedBy(new SharedFile($file, $this->owner, isLast: true), $wanted, $maxAge);
                if ($found !== null) {
                    $this->freshness = $found[0]->freshness;
                    return $found;
                }
            } catch (TransportFailed | NotReady) {
            }
        }
        return null;
    }

    /**
     * All at one revision; null where a file does not know all.
     *
     * @param non-empty-list<array<string, mixed>> $wanted
     * @return ?non-empty-list<Resolved>
     */
    private static function resolvedBy(SharedFile $file, array $wanted, ?int $maxAge): ?array
    {
        foreach ($wanted as $request) {
            if (count(array_filter($request, static fn (mixed $it) => $it !== null)) > 1 + (int) ($request['key'] !== null)) {
                return null;
            }
        }
        for ($try = 0; $try < 3; $try++) {
            $found = [];
            foreach ($wanted as ['serviceName' => $service, 'key' => $key]) {
                $found[] = $one = $file->resolve($service, $key, $maxAge);
                if ($one === null) {
                    return null;
                }
                if ($one->freshness->revision !== $found[0]->freshness->revision) {
                    continue 2;
                }
            }
            return $found;
        }
        return null;
    }

    /** A master by its id; null if it is not there. */
    public function master(string|int $id, ?int $maxAge = null): ?Master
    {
        return $this->read('master', (string) $id, $maxAge);
    }

    /**
     * The masters that are there, as the sidecar tells them: PHP cannot list a part of the shared file.
     *
     * @param string|int|null $service only those that offer it
     * @param array<string|int|float|bool> $metadata by key, what a service of theirs must have, as of `call`
     * @return list<Master> in the order of their ids
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
     * The services that are offered, as the sidecar tells them.
     *
     * @param array<string|int|float|bool> $metadata by key, what they must have, as of `call`
     * @return array<array<string, int>> by name and version, the newest first: how many masters offer it. PHP makes the
     *     key of a name such as `7` an int; every method takes it as it is
     */
    public function services(?int $maxAge = null, array $metadata = []): array
    {
        self::checkAge($maxAge);
        $maxAge ??= $this->maxAge;
        return $this->consult(
            static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->services($metadata, $maxAge, $deadline),
        );
    }

    /** What the sidecar is doing. */
    public function status(): Status
    {
        return $this->consult(static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->status($deadline));
    }

    /**
     * Calls a method of a service, on one of the masters that offer it.
     *
     * It is never sent twice from here unless it is idempotent, whatever happens to the connection.
     *
     * @param array<mixed> $args a list, or values by parameter name
     * @param int $timeoutMs how long all attempts may take together
     * @param int $retries how often it may be tried on another master, where that is safe
     * @param bool $idempotent whether it does no harm to execute it twice
     * @param ?string $version a requirement of versions as Composer writes them, such as `^1.2`; null: the newest there is
     * @param ?string $key for `Balance::Key`
     * @param bool $allValues whether every value of a method that gives many is wanted, or the last one alone
     * @param array<string|int|float|bool> $metadata by key, what the service must have: a text as it is, any other value as its JSON
     * @throws Exception\NoMaster if nobody offers the service
     * @throws Exception\CallFailed with the master's own error; `lost` if it is not known whether it was executed
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
        Balance $balance = Balance::LeastOutstanding,
        ?string $key = null,
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
     * The same on one master, by its id: the one that answered before, for what it alone knows.
     *
     * @param array<mixed> $args
     * @throws Exception\NoMaster if it is not there, or does not offer the service
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
     * Calls a method that gives many values, and gives each as soon as it comes.
     *
     * The call is sent when the first value is asked for, over a connection of its own. Who asks for no more gives it
     * up. Once it has given a value, no other master is tried; it may still fail. Arguments and exceptions are those
     * of `call`.
     *
     * @param array<mixed> $args
     * @param int $timeoutMs how long all values may take together
     * @param string|int|null $master the id of the only one that will do; null: any that offers the service
     * @param ?iterable<mixed> $input values that the method is sent while it goes on, on a stream that it takes: only one
     *     of PHP at this sidecar's own register can, and no other master is tried
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
        Balance $balance = Balance::LeastOutstanding,
        ?string $key = null,
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
     * Calls a method on every master that offers the service. Each may fail on its own; arguments as of `call`.
     *
     * @param array<mixed> $args
     * @param ?string $version null: any
     * @return list<CallOutcome> one for each master
     * @throws Exception\NoMaster if nobody offers the service
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
     * Several calls side by side. Each may fail on its own.
     *
     * @param array<Call> $calls
     * @return array<CallOutcome> with the keys of the calls
     */
    public function callMany(array $calls): array
    {
        $outcomes = $this->transports()->consult(static fn (Endpoint $endpoint) => $endpoint->callMany(array_values($calls)));
        return array_combine(array_keys($calls), $outcomes);
    }

    /**
     * Several calls on one master, each after the one before has ended, in one round trip to the sidecar.
     *
     * After one that was lost or timed out, none is sent. Each may fail on its own; what is after it is sent.
     *
     * @param array<Call> $calls
     * @param ?string $master the id of the master; null: one that offers the service of the first call
     * @return array<CallOutcome> with the keys of the calls
     */
    public function callInOrder(array $calls, ?string $master = null): array
    {
        $outcomes = $this->transports()->consult(
            static fn (Endpoint $endpoint) => $endpoint->callInOrder(array_values($calls), $master),
        );
        return array_combine(array_keys($calls), $outcomes);
    }

    /**
     * The workers of the sidecar, and what each is doing.
     *
     * @param ?string $worker a group, or one of it such as `web/2`; null: all that there are
     * @param bool $usage whether the memory and processor time of their processes are read too
     * @return list<WorkerReport>
     */
    public function workers(?string $worker = null, bool $usage = false): array
    {
        $ask = static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->workers($worker, $usage, $deadline);
        return $this->transports()->consult($ask)->value;
    }

    /**
     * Has workers of the sidecar carry out a command, side by side: `ping`, `status`, or what they add by
     * `Worker::onCommand`. One that hangs costs its own answer. For administrators.
     *
     * @param mixed $data what the command is given
     * @param ?string $worker a group, or one of it such as `web/2`; null: all that there are
     * @param int $timeoutMs how long each may take
     * @return list<WorkerAnswer> one for each
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
     * Adds a worker to those of the sidecar's configuration, and waits until its processes are ready. One that does not become
     * ready is there all the same. For root and the sidecar's own user.
     *
     * @param list<string> $command the program and its arguments; no shell reads them
     * @param array<string, mixed> $settings as a `[[worker]]` has them, such as `['count' => 2, 'stop_timeout' => '1m']`
     * @param bool $save whether it is there again when the sidecar is started again
     * @param int $timeoutMs how long to wait
     * @return list<WorkerOutcome> one for each process
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
     * Removes a worker, also from what was saved, and waits until its processes have ended. One that the configuration has is
     * there again when the sidecar is started again. For root and the sidecar's own user.
     *
     * @param bool $savedOnly whether it goes on, and is only forgotten
     * @param int $timeoutMs how long to wait
     * @return list<WorkerOutcome> one for each process
     */
    public function removeWorker(string $name, bool $savedOnly = false, int $timeoutMs = 60_000): array
    {
        return $this->transports()->consult(
            static fn (Endpoint $endpoint) => $endpoint->removeWorker($name, $savedOnly, $timeoutMs),
        );
    }

    /**
     * The nodes that are there, then every change, for ever: for workers in the CLI.
     *
     * There is no hole, also across restarts of the sidecar, which are waited out. Where it no longer knows what
     * changed, a `Reset` says so and what is there follows anew. What changes meanwhile may be reported twice.
     *
     * @param string|list<string> $paths what to watch, with all below it
     * @param int $waitMs how long to wait for a change before `$until` is asked again
     * @param ?callable(): bool $until true ends the watch
     * @return \Generator<int, Change>
     * @throws Exception\Unavailable if the sidecar was never reached
     */
    public function watch(string|array $paths = '/', int $waitMs = 10_000, ?callable $until = null): \Generator
    {
        $paths = (array) $paths;
        Path::check(...$paths);
        return (new NodeFollower($this->transports()->consultant(), $paths, $waitMs, $until))->changes();
    }

    /**
     * As `watch`, for masters.
     *
     * @param ?callable(): bool $until
     * @return \Generator<int, MasterChange>
     */
    public function watchMasters(int $waitMs = 10_000, ?callable $until = null): \Generator
    {
        return (new MasterFollower($this->transports()->consultant(), $waitMs, $until))->changes();
    }

    /**
     * The commands that masters connected to this sidecar send of their own accord, for ever: those that it keeps, then
     * every new one, as soon as it comes.
     *
     * @param int $waitMs how long to wait for one before `$until` is asked again
     * @param ?callable(): bool $until true ends the watch
     * @return \Generator<int, MasterMessage> one without a master says how many were missed
     */
    public function watchMessages(int $waitMs = 10_000, ?callable $until = null): \Generator
    {
        return (new MessageFollower($this->transports()->consultant(), $waitMs, $until))->changes();
    }

    /**
     * As `watch`, for the workers of the sidecar: their states, processes, and why.
     *
     * @param ?callable(): bool $until
     * @return \Generator<int, WorkerChange>
     */
    public function watchWorkers(int $waitMs = 10_000, ?callable $until = null): \Generator
    {
        return (new WorkerFollower($this->transports()->consultant(), $waitMs, $until))->changes();
    }

    /** How far the last answer can be trusted, be it an absence; null before the first. */
    public function freshness(): ?Freshness
    {
        return $this->freshness;
    }

    /**
     * Which transports there are, in which order, and what they came to in the last request.
     *
     * @param bool $try whether to try each of them now
     * @return list<Attempt>
     */
    public function explain(bool $try = false): array
    {
        return $try ? $this->transports()->tried() : $this->transports()->attempts();
    }

    /** What the shared file answers; else what another transport does. */
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

    /** Without a regular expression: to compile it would take longer than all else that a first read needs. */
    private static function path(string $socket): string
    {
        $path = str_starts_with($socket, 'unix:///') ? substr($socket, strlen('unix://')) : $socket;
        if ($path !== '' && $path[0] !== '/') {
            $why = "`$socket` is neither an absolute path nor `unix:///…`; an address goes to `tcp:`";
            throw new InvalidRequest('socket', $why);
        }
        return $path;
    }

    /** @throws InvalidRequest */
    private static function checkAge(?int $maxAge): void
    {
        if ($maxAge !== null && $maxAge < 0) {
            throw new InvalidRequest('maxAge', "$maxAge ms are less than none");
        }
    }

    /** What the sidecar itself answers. */
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
