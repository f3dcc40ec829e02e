<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Call;
use Roster\CallOutcome;
use Roster\CallResult;
use Roster\ChangeKind;
use Roster\Exception;
use Roster\Freshness;
use Roster\Job;
use Roster\NewJob;
use Roster\Origin;
use Roster\Owner;
use Roster\Quiet;
use Roster\Read\Answer;
use Roster\Thrift;
use Roster\Timeouts;
use Roster\Transport;
use Roster\WorkerAnswer;
use Roster\WorkerOutcome;
use Roster\WorkerChange;
use Thrift\Exception\TApplicationException;
use Thrift\Exception\TException;
use Thrift\Protocol\TBinaryProtocol;
use Thrift\Protocol\TBinaryProtocolAccelerated;

/**
 * The sidecar's Thrift interface at one address.
 *
 * @internal
 */
final class Endpoint
{
    /**
     * After a timeout, nothing that would not wait longer is asked for this long: a hanging sidecar costs a page one
     * timeout per transport for reads, and one for each longer wait.
     */
    private const REST_MS = 1_000;

    private readonly Channel $channel;
    private ?Frames $frames = null;
    private ?Thrift\RosterClient $client = null;
    private ?Deadline $rest = null;
    /** The patience of the request that timed out. */
    private int $vainMs = 0;
    private bool $isBusy = false;

    public function __construct(
        private readonly Transport $transport,
        string $address,
        private readonly Timeouts $timeouts,
        bool $isPersistent,
        private readonly ?Owner $owner,
        private readonly int $restMs = self::REST_MS,
    ) {
        $this->channel = new Channel($address, $timeouts, $isPersistent, $owner);
    }

    public function transport(): Transport
    {
        return $this->transport;
    }

    public function target(): string
    {
        return $this->channel->address;
    }

    /** @param list<string> $paths */
    public function nodes(array $paths, ?int $maxAge, Deadline $deadline): Answer
    {
        return ManyNodes::read(
            $paths,
            fn (array $some, ?int $since) => $this->someNodes($some, $since, $maxAge, $deadline),
        );
    }

    /** Some of them; null if none of these has changed since a revision. */
    private function someNodes(array $paths, ?int $since, ?int $maxAge, Deadline $deadline): Answer
    {
        return $this->read($deadline, function (Thrift\RosterClient $roster) use ($paths, $since, $maxAge): Answer {
            $request = new Thrift\GetManyRequest(['paths' => $paths, 'maxAgeMs' => $maxAge, 'since' => $since]);
            $reply = $roster->getMany($request);
            $freshness = Values::freshness($reply->freshness, $this->transport);
            $node = static fn (Thrift\Node $node) => Values::node($node, $freshness);
            return new Answer($reply->unchanged ? null : array_map($node, $reply->nodes), $freshness);
        });
    }

    /** In pages, if they exceed a reply: what is added or removed meanwhile may be included or not. */
    public function children(string $path, ?int $maxAge, Deadline $deadline): Answer
    {
        $request = ['path' => $path, 'maxAgeMs' => $maxAge];
        try {
            $all = $this->names($request, $deadline);
            return new Answer($all->value[0], $all->freshness);
        } catch (Exception\InvalidRequest) {
            // If it is the path that is invalid, the first page says so again.
        }
        [$names, $cursor, $fresh, $pages] = [[], null, [], new Pages()];
        do {
            $page = $this->names($request + ['limit' => 0, 'cursor' => $cursor], $deadline);
            [$some, $cursor] = $page->value;
            array_push($names, ...$some ?? []);
            $fresh[] = $page->freshness;
        } while ($pages->follow($cursor));
        return new Answer($some === null ? null : $names, Values::together($fresh, $fresh[0]->revision));
    }

    /**
     * Names of children, null if there is no such node; and the cursor of the next page.
     *
     * @param array<string, mixed> $request
     */
    private function names(array $request, Deadline $deadline): Answer
    {
        return $this->read($deadline, function (Thrift\RosterClient $roster) use ($request): Answer {
            try {
                $reply = $roster->children(new Thrift\ChildrenRequest($request));
                $names = array_values($reply->names);
            } catch (Thrift\NotFound $absence) {
                [$reply, $names] = [$absence, null];
            }
            return new Answer([$names, $reply->cursor ?? null], Values::freshness($reply->freshness, $this->transport));
        });
    }

    /** @param array<string, mixed> $query of a `ServiceQuery` */
    public function instances(array $query, ?int $maxAge, Deadline $deadline): Answer
    {
        [$instances, $cursor, $pages] = [[], null, new Pages()];
        do {
            $page = $this->instancesPage(['cursor' => $cursor, 'maxAgeMs' => $maxAge] + $query, $deadline);
            [$some, $cursor] = $page->value;
            array_push($instances, ...$some);
        } while ($pages->follow($cursor));
        return new Answer($instances, $page->freshness);
    }

    private function instancesPage(array $query, Deadline $deadline): Answer
    {
        return $this->read(
            $deadline,
            function (Thrift\RosterClient $roster) use ($query): Answer {
                try {
                    $page = $roster->instances(new Thrift\ServiceQuery($query));
                } catch (Thrift\NotFound $absence) {
                    return new Answer([[], null], Values::freshness($absence->freshness, $this->transport));
                }
                $freshness = Values::freshness($page->freshness, $this->transport);
                $instance = static fn (Thrift\Instance $instance) => Values::instance($instance, $freshness);
                return new Answer([array_map($instance, $page->instances), $page->cursor], $freshness);
            },
        );
    }

    /** @param array<string, mixed> $request a `ResolveRequest` */
    public function resolve(array $request, Deadline $deadline): Answer
    {
        return $this->read($deadline, function (Thrift\RosterClient $roster) use ($request): Answer {
            $reply = $roster->resolve(Values::resolveRequest($request));
            $freshness = Values::freshness($reply->freshness, $this->transport);
            return new Answer(Values::resolved($reply->instance, $freshness, $reply->isProtected), $freshness);
        });
    }

    /** @param list<array<string, mixed>> $requests each a `ResolveRequest` */
    public function resolveMany(array $requests, ?int $maxAge, Deadline $deadline): Answer
    {
        return $this->read($deadline, function (Thrift\RosterClient $roster) use ($requests, $maxAge): Answer {
            $all = ['requests' => array_map(Values::resolveRequest(...), $requests), 'maxAgeMs' => $maxAge];
            $reply = $roster->resolveMany(new Thrift\ResolveManyRequest($all));
            $freshness = Values::freshness($reply->freshness, $this->transport);
            $outcome = static fn (Thrift\ResolveOutcome $struct, array $of) => $struct->instance === null
                ? new Exception\NoInstance($of['serviceName'], (string) $struct->error)
                : Values::resolved($struct->instance, $freshness, $struct->isProtected);
            return new Answer(array_map($outcome, $reply->outcomes, $requests), $freshness);
        });
    }

    public function master(string $id, ?int $maxAge, Deadline $deadline): Answer
    {
        return $this->read($deadline, function (Thrift\RosterClient $roster) use ($id, $maxAge): Answer {
            try {
                $reply = $roster->master(new Thrift\MasterRequest(['id' => $id, 'maxAgeMs' => $maxAge]));
            } catch (Thrift\NotFound $absence) {
                return new Answer(null, Values::freshness($absence->freshness, $this->transport));
            }
            $freshness = Values::freshness($reply->freshness, $this->transport);
            return new Answer(Values::master($reply->master, $freshness), $freshness);
        });
    }

    public function masters(?string $service, array $metadata, ?int $maxAge, Deadline $deadline): Answer
    {
        [$masters, $cursor, $pages] = [[], null, new Pages()];
        do {
            $page = $this->mastersPage($service, $cursor, $deadline, $maxAge, $metadata);
            [$some, $cursor] = $page->value;
            array_push($masters, ...$some);
        } while ($pages->follow($cursor));
        return new Answer($masters, $page->freshness);
    }

    /** One page of the masters, and the cursor of the next page. */
    public function mastersPage(
        ?string $service,
        ?string $cursor,
        Deadline $deadline,
        ?int $maxAge = null,
        array $metadata = [],
    ): Answer {
        return $this->read(
            $deadline,
            function (Thrift\RosterClient $roster) use ($service, $cursor, $maxAge, $metadata): Answer {
                $reply = $roster->masters(self::query($maxAge, $cursor, $service, $metadata));
                $freshness = Values::freshness($reply->freshness, $this->transport);
                $master = static fn (Thrift\Master $master) => Values::master($master, $freshness);
                return new Answer([array_map($master, $reply->masters), $reply->cursor], $freshness);
            },
        );
    }

    public function services(array $metadata, ?int $maxAge, Deadline $deadline): Answer
    {
        [$services, $cursor, $pages] = [[], null, new Pages()];
        do {
            $page = $this->read($deadline, function (Thrift\RosterClient $roster) use ($metadata, $cursor, $maxAge): Answer {
                $reply = $roster->services(self::query($maxAge, $cursor, metadata: $metadata));
                $freshness = Values::freshness($reply->freshness, $this->transport);
                return new Answer([array_map(Values::summary(...), $reply->services), $reply->cursor], $freshness);
            });
            [$some, $cursor] = $page->value;
            foreach ($some as [$name, $masters]) {
                $services[$name] ??= $masters;
            }
        } while ($pages->follow($cursor));
        return new Answer($services, $page->freshness);
    }

    public function status(Deadline $deadline): Answer
    {
        return $this->read($deadline, function (Thrift\RosterClient $roster): Answer {
            $reply = $roster->status(new Thrift\StatusRequest());
            $freshness = Values::freshness($reply->freshness, $this->transport);
            return new Answer(Values::status($reply, $freshness), $freshness);
        });
    }

    /** One page of a node and everything below: nodes, and the cursor of the next page. */
    public function subtree(string $path, ?string $cursor, Deadline $deadline): Answer
    {
        return $this->read($deadline, function (Thrift\RosterClient $roster) use ($path, $cursor): Answer {
            $reply = $roster->subtree(new Thrift\SubtreeRequest(['path' => $path, 'cursor' => $cursor]));
            $freshness = Values::freshness($reply->freshness, $this->transport);
            $nodes = array_map(static fn (Thrift\Node $node) => Values::node($node, $freshness), $reply->nodes);
            return new Answer([$nodes, $reply->cursor], $freshness);
        });
    }

    /**
     * The changes since a revision; null if these are no longer known.
     *
     * @param list<string> $paths
     */
    public function watch(int $since, array $paths, int $waitMs): Answer
    {
        return $this->follow($waitMs, function (Thrift\RosterClient $roster) use ($since, $paths, $waitMs): Answer {
            $request = ['since' => $since, 'paths' => $paths, 'timeoutMs' => Values::narrowed($waitMs)];
            $reply = $roster->watch(new Thrift\WatchRequest($request));
            $freshness = Values::freshness($reply->freshness, $this->transport);
            $change = static fn (Thrift\Change $change) => Values::change($change, $freshness);
            return new Answer($reply->reset ? null : self::known(array_map($change, $reply->changes)), $freshness);
        });
    }

    /**
     * The changes; null, as if they were no longer known, if there is one of which a newer sidecar says what this package does
     * not know.
     *
     * @template T
     * @param list<?T> $changes
     * @return ?list<T>
     */
    private static function known(array $changes): ?array
    {
        return in_array(null, $changes, true) ? null : $changes;
    }

    /** Like `watch`, for masters. */
    public function watchMasters(int $since, int $waitMs): Answer
    {
        return $this->follow($waitMs, function (Thrift\RosterClient $roster) use ($since, $waitMs): Answer {
            $request = new Thrift\WatchMastersRequest(['since' => $since, 'timeoutMs' => Values::narrowed($waitMs)]);
            $reply = $roster->watchMasters($request);
            $freshness = Values::freshness($reply->freshness, $this->transport);
            $change = static fn (Thrift\MasterChange $change) => Values::masterChange($change, $freshness);
            return new Answer($reply->reset ? null : self::known(array_map($change, $reply->changes)), $freshness);
        });
    }

    /** Like `watch`, for messages of masters. */
    public function watchMessages(int $since, int $waitMs): Answer
    {
        return $this->follow($waitMs, function (Thrift\RosterClient $roster) use ($since, $waitMs): Answer {
            $request = ['since' => $since, 'timeoutMs' => Values::narrowed($waitMs), 'encoding' => Thrift\Encoding::MSGPACK];
            $reply = $roster->watchMessages(new Thrift\WatchMessagesRequest($request));
            $freshness = new Freshness($reply->cursor, 0, Origin::Live, true, $this->transport);
            return new Answer($reply->reset ? null : Values::messages($reply), $freshness);
        });
    }

    /**
     * @param ?string $master the id of the only acceptable master; null: any that offers the service
     * @param array<string|int|float|bool> $metadata the service's required metadata
     */
    public function call(Call $call, ?string $master = null, array $metadata = []): CallResult
    {
        return $this->send(
            static fn (Thrift\RosterClient $roster) =>
                Values::result($roster->call(Values::call($call, $master, $metadata))),
            $call->timeoutMs,
            $call->idempotent,
        );
    }

    /** @return list<CallOutcome> */
    public function callAll(Call $call): array
    {
        return $this->send(
            static fn (Thrift\RosterClient $roster) => array_map(
                static fn (Thrift\CallOutcome $outcome) => Values::outcome($outcome, $call),
                $roster->callAll(Values::call($call))->outcomes,
            ),
            $call->timeoutMs,
            $call->idempotent,
        );
    }

    /**
     * @param list<Call> $calls
     * @return list<CallOutcome>
     */
    public function callMany(array $calls): array
    {
        return $this->send(
            static fn (Thrift\RosterClient $roster) => array_map(
                Values::outcome(...),
                $roster->callMany(self::calls($calls))->outcomes,
                $calls,
            ),
            max([0, ...array_column($calls, 'timeoutMs')]),
            !in_array(false, array_column($calls, 'idempotent'), true),
        );
    }

    /**
     * @param list<Call> $calls
     * @return list<CallOutcome>
     */
    public function callInOrder(array $calls, ?string $master): array
    {
        return $this->send(
            static fn (Thrift\RosterClient $roster) => array_map(
                Values::outcome(...),
                $roster->callInOrder(self::calls($calls, $master))->outcomes,
                $calls,
            ),
            array_sum(array_column($calls, 'timeoutMs')),
            !in_array(false, array_column($calls, 'idempotent'), true),
        );
    }

    public function startCall(Call $call, ?string $master): Thrift\CallValues
    {
        return $this->send(
            static fn (Thrift\RosterClient $roster) => $roster->startCall(Values::call($call, $master)),
            $call->timeoutMs,
            $call->idempotent,
        );
    }

    /** Like `startCall`, for a method with streamed input. */
    public function openCall(Call $call, ?string $master): void
    {
        $this->send(
            static fn (Thrift\RosterClient $roster) => $roster->openCall(Values::call($call, $master)),
            0,
            false,
        );
    }

    /**
     * Sends values to the call that was opened here.
     *
     * @param list<string> $values
     */
    public function sendValues(Call $call, array $values, bool $isLast): Thrift\SentValuesReply
    {
        $request = ['values' => $values, 'isLast' => $isLast];
        return $this->onOpen(
            $call,
            static fn (Thrift\RosterClient $roster) => $roster->sendValues(new Thrift\SendValuesRequest($request)),
        );
    }

    /** What has arrived since for the call that was started here. */
    public function nextValues(Call $call): Thrift\CallValues
    {
        return $this->onOpen($call, static fn (Thrift\RosterClient $roster) => $roster->nextValues(new Thrift\NextValuesRequest()));
    }

    private function onOpen(Call $call, callable $question): object
    {
        try {
            return $this->send($question, $call->timeoutMs, false);
        } catch (Exception\TransportFailed | Exception\InvalidRequest $failure) {
            // The call ended with its connection.
            throw new Exception\CallFailed($failure->getMessage(), lost: true);
        }
    }

    /** Like `watch`, for workers. */
    public function watchWorkers(int $since, int $waitMs): Answer
    {
        return $this->follow($waitMs, function (Thrift\RosterClient $roster) use ($since, $waitMs): Answer {
            $request = new Thrift\WatchWorkersRequest(['since' => $since, 'timeoutMs' => Values::narrowed($waitMs)]);
            $reply = $roster->watchWorkers($request);
            $freshness = new Freshness($reply->cursor, 0, Origin::Live, true, $this->transport);
            $kind = $since === 0 ? ChangeKind::Present : ChangeKind::Changed;
            $change = static fn (Thrift\Worker $worker) => new WorkerChange($kind, $worker->name, Values::worker($worker));
            $removed = static fn (string $name) => new WorkerChange(ChangeKind::Deleted, $name, null);
            $changes = [...array_map($change, $reply->changes), ...array_map($removed, $reply->removed)];
            return new Answer($reply->reset ? null : $changes, $freshness);
        });
    }

    /** @return Answer with a list of WorkerReport */
    public function workers(?string $worker, bool $usage, Deadline $deadline): Answer
    {
        [$group, $number] = Values::target($worker);
        [$reports, $cursor, $pages] = [[], null, new Pages()];
        do {
            $request = compact('group', 'number', 'cursor', 'usage');
            $page = $this->read($deadline, function (Thrift\RosterClient $roster) use ($request): Answer {
                $reply = $roster->workers(new Thrift\WorkersQuery($request));
                $freshness = new Freshness(0, 0, Origin::Live, true, $this->transport);
                return new Answer([array_map(Values::worker(...), $reply->workers), $reply->cursor], $freshness);
            });
            [$some, $cursor] = $page->value;
            array_push($reports, ...$some);
        } while ($pages->follow($cursor));
        return new Answer($reports, $page->freshness);
    }

    /**
     * @param ?string $worker a group, or a worker of it; null: all
     * @param string $data as MessagePack
     * @return list<WorkerAnswer>
     */
    public function commandWorkers(string $command, string $data, ?string $worker, int $timeoutMs): array
    {
        [$group, $number] = Values::target($worker);
        $request = ['group' => $group, 'number' => $number, 'name' => $command, 'data' => $data];
        $request += ['timeoutMs' => Values::narrowed($timeoutMs), 'encoding' => Thrift\Encoding::MSGPACK];
        return $this->send(
            static fn (Thrift\RosterClient $roster) => array_map(
                Values::workerAnswer(...),
                $roster->commandWorkers(new Thrift\WorkerCommand($request))->answers,
            ),
            $timeoutMs,
            false,
        );
    }

    /**
     * @param string $settings as JSON
     * @return list<WorkerOutcome>
     */
    public function addWorker(string $settings, bool $save, int $timeoutMs): array
    {
        $request = ['settings' => $settings, 'save' => $save, 'timeoutMs' => Values::narrowed($timeoutMs)];
        return $this->controlled(
            static fn (Thrift\RosterClient $roster) => $roster->addWorker(new Thrift\WorkerAddition($request)),
            $timeoutMs,
        );
    }

    /** @return list<WorkerOutcome> */
    public function removeWorker(string $group, bool $savedOnly, int $timeoutMs): array
    {
        $request = ['group' => $group, 'savedOnly' => $savedOnly, 'timeoutMs' => Values::narrowed($timeoutMs)];
        return $this->controlled(
            static fn (Thrift\RosterClient $roster) => $roster->removeWorker(new Thrift\WorkerRemoval($request)),
            $timeoutMs,
        );
    }

    /** @return list<WorkerOutcome> */
    private function controlled(callable $question, int $timeoutMs): array
    {
        $reply = $this->send($question, $timeoutMs, false);
        if ($reply->timedOut) {
            throw new Exception\CallTimedOut("it is not done within $timeoutMs ms, and goes on", $timeoutMs);
        }
        if ($reply->notSaved !== null) {
            throw new Exception\CallFailed("it is there again when the sidecar is started again: $reply->notSaved");
        }
        return array_map(static fn ($it) => new WorkerOutcome($it->name, $it->error), $reply->outcomes);
    }

    /**
     * What was sent may have been done: only what is unique goes on to the next transport.
     *
     * @param list<NewJob> $jobs
     * @return array{list<int>, bool} their ids, and whether they wait on this host until Redis has them
     */
    public function enqueue(array $jobs): array
    {
        $isRepeatable = !in_array(null, array_column($jobs, 'unique'), true);
        return $this->send(
            static function (Thrift\RosterClient $roster) use ($jobs): array {
                $reply = $roster->enqueue(new Thrift\EnqueueRequest(['jobs' => array_map(Values::newJob(...), $jobs)]));
                return [array_column($reply->jobs, 'id'), $reply->isBuffered ?? false];
            },
            $this->timeouts->jobsMs,
            $isRepeatable,
        );
    }

    /** @return array{?Job} */
    public function job(int $id): array
    {
        return $this->send(static function (Thrift\RosterClient $roster) use ($id): array {
            try {
                return [Values::job($roster->job(new Thrift\JobQuery(['id' => $id]))->job)];
            } catch (Thrift\NotFound) {
                return [null];
            }
        }, $this->timeouts->jobsMs, true);
    }

    /** @return array{bool} */
    public function cancelJob(int $id): array
    {
        return $this->send(static function (Thrift\RosterClient $roster) use ($id): array {
            try {
                $roster->cancelJob(new Thrift\JobQuery(['id' => $id]));
                return [true];
            } catch (Thrift\NotFound) {
                return [false];
            }
        }, $this->timeouts->jobsMs, false);
    }

    /** @param list<Call> $calls */
    private static function calls(array $calls, ?string $master = null): Thrift\CallsRequest
    {
        $call = static fn (Call $call) => Values::call($call, $master);
        return new Thrift\CallsRequest(['calls' => array_map($call, $calls)]);
    }

    /** @param array<string|int|float|bool> $metadata */
    private static function query(
        ?int $maxAge,
        ?string $cursor,
        ?string $service = null,
        array $metadata = [],
    ): Thrift\ServiceQuery {
        return new Thrift\ServiceQuery([
            'serviceName' => $service,
            'maxAgeMs' => $maxAge,
            'cursor' => $cursor,
            'metadata' => Values::metadata($metadata),
        ]);
    }

    public function close(): void
    {
        $this->channel->close();
    }

    /** Makes calls. What was sent may have been executed: only idempotent calls go on to the next transport. */
    private function send(callable $question, int|float $patienceMs, bool $isIdempotent): object|array
    {
        // What is below nothing is for the sidecar to refuse.
        $patienceMs = max(0, Values::narrowed($patienceMs));
        try {
            $deadline = new Deadline($patienceMs + $this->timeouts->totalMs);
            return $this->tried($deadline, $question, $patienceMs, $isIdempotent);
        } catch (Exception\TransportFailed $failure) {
            throw match (true) {
                !$failure->isSent => $failure,
                $failure->timedOut => new Exception\CallTimedOut($failure->getMessage(), $patienceMs),
                $isIdempotent => $failure,
                default => new Exception\CallFailed($failure->getMessage(), lost: true),
            };
        }
    }

    private function read(Deadline $deadline, callable $question, int $patienceMs = 0): Answer
    {
        $answer = $this->tried($deadline, $question, $patienceMs, true);
        // It may be one page of many.
        $deadline->renew();
        return $answer;
    }

    /** Asks, unless there was no answer just now to what would have waited as long. */
    private function tried(Deadline $deadline, callable $question, int $patienceMs, bool $isRepeatable): object|array
    {
        if ($patienceMs <= $this->vainMs && $this->rest?->left() > 0) {
            throw new Exception\TransportFailed('it has just timed out');
        }
        try {
            $answer = $this->ask($deadline, $question, $patienceMs, $isRepeatable);
            $this->rest = null;
            return $answer;
        } catch (Exception\TransportFailed $failure) {
            $this->rest = $failure->timedOut ? new Deadline($this->restMs) : null;
            $this->vainMs = $patienceMs;
            throw $failure;
        }
    }

    /** The same, when waiting for news. */
    private function follow(int $waitMs, callable $question): Answer
    {
        return $this->read(new Deadline($waitMs + $this->timeouts->totalMs), $question, $waitMs);
    }

    /** Asks, and converts errors to this package's. Any missing part of an answer fails here. */
    private function ask(Deadline $deadline, callable $question, int $patienceMs, bool $isRepeatable): object|array
    {
        if ($this->isBusy) {
            // A signal handler asks while a request waits.
            $other = new self($this->transport, $this->target(), $this->timeouts, false, $this->owner);
            return $other->ask($deadline, $question, $patienceMs, $isRepeatable);
        }
        Quiet::begin();
        try {
            $this->isBusy = true;
            $client = $this->client ??= $this->client();
            $this->frames->begin($deadline, $patienceMs, $isRepeatable);
            return $question($client);
        } catch (Exception\RosterException $failure) {
            throw $failure;
        } catch (Thrift\NotReady $exception) {
            throw new Exception\NotReady($exception->source, $exception->message);
        } catch (Thrift\TooStale $exception) {
            throw new Exception\TooStale($exception->ageMs, $exception->maxAgeMs, $exception->message);
        } catch (Thrift\InvalidRequest $exception) {
            throw new Exception\InvalidRequest($exception->field, $exception->message);
        } catch (Thrift\AccessDenied $exception) {
            throw new Exception\AccessDenied($exception->message);
        } catch (Thrift\NotFound $exception) {
            // Optional results are handled earlier; for a missing worker, the request is invalid.
            throw new Exception\InvalidRequest('worker', $exception->message);
        } catch (Thrift\NoMaster $exception) {
            throw new Exception\NoMaster($exception->serviceName, $exception->message);
        } catch (Thrift\NoInstance $exception) {
            throw new Exception\NoInstance($exception->serviceName, $exception->message);
        } catch (Thrift\CallFailed $exception) {
            [$class, $code] = [$exception->className, $exception->code];
            throw new Exception\CallFailed($exception->message, $exception->masterId, $class, $code, $exception->lost);
        } catch (Thrift\CallTimedOut $exception) {
            throw new Exception\CallTimedOut($exception->message, $exception->timeoutMs, $exception->masterId);
        } catch (Thrift\Overloaded $exception) {
            throw new Exception\Overloaded($exception->message);
        } catch (TApplicationException $exception) {
            $isRefused = $exception->getCode() === TApplicationException::UNKNOWN_METHOD;
            throw new Exception\TransportFailed($exception->getMessage(), isSent: !$isRefused);
        } catch (\Throwable $strange) {
            // Before an answer, it is of the arguments, or an application's signal handler threw it: that is its own.
            if (!$this->frames?->isAnswered || self::isOfApplication($strange)) {
                throw $strange;
            }
            $this->channel->close();
            $why = "a strange answer: {$strange->getMessage()}";
            throw new Exception\TransportFailed($why, isSent: true, isStrange: true);
        } finally {
            Quiet::end();
            $this->isBusy = false;
        }
    }

    /** Whether a signal handler threw it while an answer was decoded, rather than this package or Thrift's library. */
    private static function isOfApplication(\Throwable $thrown): bool
    {
        $library = dirname((string) (new \ReflectionClass(TBinaryProtocol::class))->getFileName(), 2);
        $isIn = static fn (string $folder): bool => str_starts_with($thrown->getFile(), "$folder/");
        return !$thrown instanceof TException
            && array_filter([dirname(__DIR__), dirname(__DIR__, 2) . '/gen', $library], $isIn) === [];
    }

    private function client(): Thrift\RosterClient
    {
        if (!class_exists(TBinaryProtocol::class)) {
            $remedy = 'Debian: php-thrift; Composer: apache/thrift';
            throw new Exception\TransportFailed("Thrift's PHP library is not there ($remedy)");
        }
        try {
            $frames = new Frames($this->channel);
            $isAccelerated = function_exists('thrift_protocol_write_binary');
            $protocol = $isAccelerated ? new TBinaryProtocolAccelerated($frames) : new TBinaryProtocol($frames);
            $client = new Thrift\RosterClient($protocol);
        } catch (\Error $why) {
            throw new Exception\TransportFailed("Thrift's PHP library cannot be loaded: {$why->getMessage()}");
        }
        $this->frames = $frames;
        return $client;
    }
}
