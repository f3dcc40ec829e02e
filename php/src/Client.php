<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\CallFailed;
use Roster\Exception\CallTimedOut;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NotReady;
use Roster\Exception\RosterException;
use Roster\Exception\TooStale;
use Roster\Exception\Unavailable;
use Roster\Exception\WayFailed;
use Roster\Read\Answer;
use Roster\Read\Reader;
use Roster\Read\SharedFile;
use Roster\Wire\Deadline;
use Roster\Wire\Endpoint;

/**
 * What this host's Roster sidecar knows, and calls through it.
 *
 * A read takes the first way that leads to an answer: the shared file while its writer lives, the Unix socket, loopback
 * TCP, and at last the shared file as a writer left it. What is missing is null or a default. A method throws
 * `Unavailable` if no way led to an answer, `NotReady` if nothing is known yet, `TooStale` if all is older than
 * `maxAge`, and `InvalidRequest` for a request that makes no sense; all of them are `RosterException`s.
 */
final class Client
{
    private const PATH = '~^(?:/|(?:/(?!\.\.?(?:/|\z))[^/\p{Cc}]++)++)\z~u';

    /** @var list<Reader> in the order in which they are tried */
    private readonly array $readers;
    /** @var list<Endpoint> */
    private readonly array $endpoints;

    /** @var list<Reader> those of the last request, */
    private array $asked = [];
    /** @var array<int, RosterException> why some did not answer, */
    private array $failures = [];
    /** and which one did. */
    private ?int $answered = null;

    private ?Freshness $freshness = null;
    /** @var array<string, true> the targets whose failure was logged, until they answer again */
    private array $logged = [];

    private function __construct(
        private readonly string $socket,
        private readonly string $tcp,
        string $shared,
        private readonly ?int $maxAge,
        private readonly Timeouts $timeouts,
        bool $isPersistent,
        private readonly ?object $logger,
    ) {
        $this->endpoints = $this->endpoints($isPersistent);
        $this->readers = $shared === ''
            ? $this->endpoints
            : [new SharedFile($shared, isLast: false), ...$this->endpoints, new SharedFile($shared, isLast: true)];
        $this->asked = $this->readers;
    }

    /**
     * A client of the sidecar on this host. Nothing is opened before it is needed.
     *
     * @param ?string $socket the Unix socket; null: that in /run/roster or the user's runtime folder; empty: none
     * @param ?string $tcp host and port; null: 127.0.0.1:9090; empty: none
     * @param ?string $shared the shared file; null: that beside the socket; empty: none
     * @param ?int $maxAge how many ms old an answer may be; null: any age will do
     * @param ?bool $persistent whether connections outlive the web request; null: except in the CLI
     * @param ?\Psr\Log\LoggerInterface $logger is told when a way begins to fail
     */
    public static function local(
        ?string $socket = null,
        ?string $tcp = null,
        ?string $shared = null,
        ?int $maxAge = null,
        Timeouts $timeouts = new Timeouts(),
        ?bool $persistent = null,
        ?object $logger = null,
    ): self {
        $socket ??= Place::socket();
        $shared ??= Place::shared($socket);
        $persistent ??= PHP_SAPI !== 'cli';
        return new self($socket, $tcp ?? Place::PORT, $shared, $maxAge, $timeouts, $persistent, $logger);
    }

    /**
     * The node at a path.
     *
     * @template T
     * @param T $default what to give where there is none
     * @param ?int $maxAge in ms; null: as the client was told
     * @return Node|T
     */
    public function get(string $path, mixed $default = null, ?int $maxAge = null): mixed
    {
        return $this->getMany([$path], $maxAge)[$path] ?? $default;
    }

    /**
     * The nodes at several paths, all of one revision; those that are not there are left out.
     *
     * @param list<string> $paths
     * @return array<string, Node> by path
     */
    public function getMany(array $paths, ?int $maxAge = null): array
    {
        self::check(...$paths);
        $maxAge ??= $this->maxAge;
        return $this->read(static fn (Reader $way, Deadline $deadline) => $way->nodes($paths, $maxAge, $deadline));
    }

    /**
     * The names of a node's children; null if there is no such node.
     *
     * @return ?list<string>
     */
    public function children(string $path, ?int $maxAge = null): ?array
    {
        self::check($path);
        $maxAge ??= $this->maxAge;
        return $this->read(static fn (Reader $way, Deadline $deadline) => $way->children($path, $maxAge, $deadline));
    }

    /**
     * Who offers a service, by its name without a version.
     *
     * @return list<Instance> the newest version first; empty if nobody does
     */
    public function instances(string $service, ?int $maxAge = null): array
    {
        $maxAge ??= $this->maxAge;
        return $this->read(
            static fn (Endpoint $way, Deadline $deadline) => $way->instances($service, $maxAge, $deadline),
            $this->endpoints,
        );
    }

    /**
     * The masters that are there.
     *
     * @param ?string $service only those that offer it
     * @return list<Master> in the order of their ids
     */
    public function masters(?string $service = null, ?int $maxAge = null): array
    {
        $maxAge ??= $this->maxAge;
        return $this->read(
            static fn (Endpoint $way, Deadline $deadline) => $way->masters($service, $maxAge, $deadline),
            $this->endpoints,
        );
    }

    /** What the sidecar is doing. */
    public function status(): Status
    {
        return $this->read(static fn (Endpoint $way, Deadline $deadline) => $way->status($deadline), $this->endpoints);
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
     * @param ?string $version a requirement of semantic versions, such as `^1.2`; null: the newest there is
     * @param ?string $key for `Balance::Key`
     * @param bool $allValues whether every value of a method that gives many is wanted, or the last one alone
     * @throws Exception\NoMaster if nobody offers the service
     * @throws CallFailed with the master's own error; `lost` if it is not known whether it was executed
     * @throws CallTimedOut if there was no answer in time
     * @throws Exception\Overloaded if too many calls are under way
     */
    public function call(
        string $service,
        string $method,
        array $args = [],
        int $timeoutMs = 5_000,
        int $retries = 2,
        bool $idempotent = false,
        ?string $version = null,
        Balance $balance = Balance::LeastOutstanding,
        ?string $key = null,
        bool $allValues = false,
    ): CallResult {
        $call = new Thrift\Call([
            'serviceName' => $service,
            'method' => $method,
            'arguments' => self::arguments($args),
            'options' => new Thrift\CallOptions([
                'timeoutMs' => $timeoutMs,
                'retries' => $retries,
                'idempotent' => $idempotent,
                'version' => $version,
                'balance' => $balance->value,
                'key' => $key,
                'allValues' => $allValues,
            ]),
        ]);
        return $this->ask($this->endpoints, static function (Endpoint $way) use ($call, $idempotent): CallResult {
            try {
                return $way->call($call);
            } catch (WayFailed $failure) {
                throw match (true) {
                    !$failure->isSent => $failure,
                    $failure->timedOut => new CallTimedOut($failure->getMessage(), $call->options->timeoutMs),
                    $idempotent => $failure,
                    default => new CallFailed($failure->getMessage(), lost: true),
                };
            }
        });
    }

    /**
     * The nodes that are there, then every change, for ever: for workers in the CLI.
     *
     * There is no hole, also across restarts of the sidecar, which are waited out. Where it no longer knows what
     * changed, a `Reset` says so and what is there follows anew. What changes meanwhile may be told twice.
     *
     * @param string|list<string> $paths what to watch, with all below it
     * @param int $waitMs how long to wait for a change before `$until` is asked again
     * @param ?callable(): bool $until true ends the watch
     * @return \Generator<int, Change>
     * @throws Unavailable if the sidecar was never reached
     */
    public function watch(string|array $paths = '/', int $waitMs = 10_000, ?callable $until = null): \Generator
    {
        $paths = (array) $paths;
        self::check(...$paths);
        $endpoints = $this->endpoints(isPersistent: false);
        $deadline = fn () => new Deadline($this->timeouts->wholeMs);
        $ask = fn (callable $question) => $this->ask($endpoints, static fn ($way) => $question($way, $deadline()));
        return (new Follower($ask, $paths, $waitMs, $until))->changes();
    }

    /** How far the last answer can be trusted, be it an absence; null before the first. */
    public function freshness(): ?Freshness
    {
        return $this->freshness;
    }

    /**
     * Which ways there are, in which order, and what they came to in the last request.
     *
     * @param bool $try whether to try each of them now
     * @return list<Step>
     */
    public function explain(bool $try = false): array
    {
        if (!$try) {
            return $this->steps();
        }
        return array_map(function (Reader $way): Step {
            try {
                $way->nodes(['/'], null, new Deadline($this->timeouts->wholeMs));
                return new Step($way->way(), $way->target(), true);
            } catch (RosterException $failure) {
                return new Step($way->way(), $way->target(), false, $failure->getMessage());
            }
        }, $this->readers);
    }

    /** @return list<Endpoint> */
    private function endpoints(bool $isPersistent): array
    {
        $to = fn (Way $way, string $address) => new Endpoint($way, $address, $this->timeouts, $isPersistent);
        return [
            ...($this->socket === '' ? [] : [$to(Way::Unix, "unix://$this->socket")]),
            ...($this->tcp === '' ? [] : [$to(Way::Tcp, "tcp://$this->tcp")]),
        ];
    }

    /** @param ?list<Reader> $readers null: all */
    private function read(callable $question, ?array $readers = null): mixed
    {
        $deadline = new Deadline($this->timeouts->wholeMs);
        $answer = $this->ask($readers ?? $this->readers, static fn (Reader $way) => $question($way, $deadline));
        $this->freshness = $answer->freshness;
        return $answer->value;
    }

    /**
     * What the first one answers that does.
     *
     * @param list<Reader> $readers
     */
    private function ask(array $readers, callable $question): Answer|CallResult
    {
        $this->asked = $readers;
        $this->failures = [];
        $this->answered = null;
        foreach ($readers as $index => $reader) {
            try {
                $answer = $question($reader);
                $this->answered = $index;
                if ($this->logged !== []) {
                    unset($this->logged[$reader->target()]);
                }
                return $answer;
            } catch (WayFailed | NotReady | TooStale $failure) {
                $this->failures[$index] = $failure;
                $this->log($reader, $failure);
            }
        }
        throw $this->refusal();
    }

    /** The worst is not to know how bad it is: what the sidecar said of its data tells more than a broken way. */
    private function refusal(): RosterException
    {
        $ages = array_filter($this->failures, static fn ($failure) => $failure instanceof TooStale);
        usort($ages, static fn (TooStale $one, TooStale $other) => $one->ageMs <=> $other->ageMs);
        $unready = array_filter($this->failures, static fn ($failure) => $failure instanceof NotReady);
        return match (true) {
            $ages !== [] => new TooStale($ages[0]->ageMs, $ages[0]->maxAgeMs, implode('; ', $this->steps())),
            $unready !== [] => end($unready),
            default => new Unavailable($this->steps()),
        };
    }

    /** @return list<Step> */
    private function steps(): array
    {
        $step = function (int $index, Reader $way): Step {
            $failure = $this->failures[$index] ?? null;
            $answered = $failure !== null ? false : ($this->answered === $index ?: null);
            return new Step($way->way(), $way->target(), $answered, $failure?->getMessage());
        };
        return array_map($step, array_keys($this->asked), $this->asked);
    }

    private function log(Reader $reader, RosterException $failure): void
    {
        $target = $reader->target();
        if ($this->logged[$target] ?? false) {
            return;
        }
        $this->logged[$target] = true;
        $context = ['target' => $target, 'failure' => $failure->getMessage()];
        $this->logger?->warning('roster: {target}: {failure}', $context);
    }

    /** All ways must agree on what a path is, also one that only looks up a key. */
    private static function check(string ...$paths): void
    {
        foreach ($paths as $path) {
            if (preg_match(self::PATH, $path) !== 1) {
                throw new InvalidRequest('path', "`$path` is not absolute, ends in a slash, or has an impossible part");
            }
        }
    }

    private static function arguments(array $args): string
    {
        try {
            return $args === [] ? '' : json_encode($args, JSON_THROW_ON_ERROR | JSON_PRESERVE_ZERO_FRACTION);
        } catch (\JsonException $error) {
            throw new InvalidRequest('args', "they cannot be written as JSON: {$error->getMessage()}");
        }
    }
}
