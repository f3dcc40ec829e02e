<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Call;
use Roster\CallOutcome;
use Roster\CallResult;
use Roster\Exception;
use Roster\Read\Answer;
use Roster\Thrift;
use Roster\Timeouts;
use Roster\Way;
use Thrift\Exception\TApplicationException;
use Thrift\Protocol\TBinaryProtocol;
use Thrift\Protocol\TBinaryProtocolAccelerated;

/**
 * The sidecar's Thrift interface at one address.
 *
 * @internal
 */
final class Endpoint
{
    /** After a time-out, reads do not wait again for so long: a sidecar that hangs costs a web page one time-out a way. */
    private const REST_MS = 1_000;

    private readonly Channel $channel;
    private ?Frames $frames = null;
    private ?Thrift\RosterClient $client = null;
    private ?Deadline $rest = null;

    public function __construct(
        private readonly Way $way,
        string $address,
        private readonly Timeouts $timeouts,
        bool $isPersistent,
    ) {
        $this->channel = new Channel($address, $timeouts, $isPersistent);
    }

    public function way(): Way
    {
        return $this->way;
    }

    public function target(): string
    {
        return $this->channel->address;
    }

    /** @param list<string> $paths */
    public function nodes(array $paths, ?int $maxAge, Deadline $deadline): Answer
    {
        $reply = $this->read(
            $deadline,
            static fn (Thrift\RosterClient $roster) =>
                $roster->getMany($paths, new Thrift\ReadOptions(['maxAgeMs' => $maxAge])),
        );
        $freshness = Values::freshness($reply->freshness, $this->way);
        $nodes = array_map(static fn (Thrift\Node $node) => Values::node($node, $freshness), $reply->nodes);
        return new Answer($nodes, $freshness);
    }

    public function children(string $path, ?int $maxAge, Deadline $deadline): Answer
    {
        $reply = $this->read($deadline, static function (Thrift\RosterClient $roster) use ($path, $maxAge): object {
            try {
                return $roster->children($path, new Thrift\ReadOptions(['maxAgeMs' => $maxAge]));
            } catch (Thrift\NotFound $absence) {
                return $absence;
            }
        });
        return new Answer($reply->names ?? null, Values::freshness($reply->freshness, $this->way));
    }

    public function instances(string $service, ?int $maxAge, Deadline $deadline): Answer
    {
        [$instances, $cursor] = [[], null];
        do {
            $page = $this->instancesPage($service, $cursor, $deadline);
            $freshness = $this->fresh($page->freshness, $maxAge);
            foreach ($page->instances ?? [] as $instance) {
                $instances[] = Values::instance($instance, $freshness);
            }
            $cursor = $page->cursor ?? null;
        } while ($cursor !== null);
        return new Answer($instances, $freshness);
    }

    private function instancesPage(string $service, ?string $cursor, Deadline $deadline): object
    {
        return $this->read($deadline, static function (Thrift\RosterClient $roster) use ($service, $cursor): object {
            try {
                return $cursor === null
                    ? $roster->instances($service)
                    : $roster->instancesPage(new Thrift\Filter(['serviceName' => $service, 'cursor' => $cursor]));
            } catch (Thrift\NotFound $absence) {
                return $absence;
            }
        });
    }

    public function master(string $id, ?int $maxAge, Deadline $deadline): Answer
    {
        $reply = $this->read($deadline, static function (Thrift\RosterClient $roster) use ($id): object {
            try {
                return $roster->master($id);
            } catch (Thrift\NotFound $absence) {
                return $absence;
            }
        });
        $freshness = $this->fresh($reply->freshness, $maxAge);
        $master = $reply->master ?? null;
        return new Answer($master === null ? null : Values::master($master, $freshness), $freshness);
    }

    public function masters(?string $service, ?int $maxAge, Deadline $deadline): Answer
    {
        [$masters, $cursor] = [[], null];
        do {
            $page = $this->mastersPage($service, $cursor, $deadline, $maxAge);
            [$some, $cursor] = $page->value;
            array_push($masters, ...$some);
        } while ($cursor !== null);
        return new Answer($masters, $page->freshness);
    }

    /** One page of the masters, and where the next page begins. */
    public function mastersPage(?string $service, ?string $cursor, Deadline $deadline, ?int $maxAge = null): Answer
    {
        $reply = $this->read(
            $deadline,
            static fn (Thrift\RosterClient $roster) =>
                $roster->masters(new Thrift\Filter(['serviceName' => $service, 'cursor' => $cursor])),
        );
        $freshness = $this->fresh($reply->freshness, $maxAge);
        $master = static fn (Thrift\Master $master) => Values::master($master, $freshness);
        return new Answer([array_map($master, $reply->masters), $reply->cursor], $freshness);
    }

    public function services(?int $maxAge, Deadline $deadline): Answer
    {
        [$services, $cursor] = [[], null];
        do {
            $reply = $this->read(
                $deadline,
                static fn (Thrift\RosterClient $roster) => $roster->services(new Thrift\Filter(['cursor' => $cursor])),
            );
            foreach ($reply->services as $service) {
                uksort($service->masters, static fn (string $one, string $other) => version_compare($other, $one));
                $services[$service->name] ??= $service->masters;
            }
            $cursor = $reply->cursor;
        } while ($cursor !== null);
        return new Answer($services, $this->fresh($reply->freshness, $maxAge));
    }

    public function status(Deadline $deadline): Answer
    {
        $reply = $this->read($deadline, static fn (Thrift\RosterClient $roster) => $roster->status());
        $freshness = Values::freshness($reply->freshness, $this->way);
        return new Answer(Values::status($reply, $freshness), $freshness);
    }

    /** One page of a node and all below it: nodes, and where the next page begins. */
    public function subtree(string $path, string $cursor, Deadline $deadline): Answer
    {
        $reply = $this->read(
            $deadline,
            static fn (Thrift\RosterClient $roster) =>
                $roster->subtree($path, 0, $cursor, new Thrift\ReadOptions()),
        );
        $freshness = Values::freshness($reply->freshness, $this->way);
        $nodes = array_map(static fn (Thrift\Node $node) => Values::node($node, $freshness), $reply->nodes);
        return new Answer([$nodes, $reply->cursor], $freshness);
    }

    /**
     * What changed since a revision; null where that is no longer known.
     *
     * @param list<string> $paths
     */
    public function watch(int $since, array $paths, int $waitMs): Answer
    {
        $reply = $this->read(
            new Deadline($waitMs + $this->timeouts->wholeMs),
            static fn (Thrift\RosterClient $roster) => $roster->watch($since, $paths, $waitMs, 0),
            $waitMs,
        );
        $freshness = Values::freshness($reply->freshness, $this->way);
        $changes = array_map(static fn (Thrift\Change $change) => Values::change($change, $freshness), $reply->changes);
        return new Answer($reply->reset ? null : $changes, $freshness);
    }

    /** As `watch`, for masters. */
    public function watchMasters(int $since, int $waitMs): Answer
    {
        $reply = $this->read(
            new Deadline($waitMs + $this->timeouts->wholeMs),
            static fn (Thrift\RosterClient $roster) => $roster->watchMasters($since, $waitMs, 0),
            $waitMs,
        );
        $freshness = Values::freshness($reply->freshness, $this->way);
        $change = static fn (Thrift\MasterChange $change) => Values::masterChange($change, $freshness);
        return new Answer($reply->reset ? null : array_map($change, $reply->changes), $freshness);
    }

    public function call(Call $call): CallResult
    {
        return Values::result($this->send(
            static fn (Thrift\RosterClient $roster) =>
                $roster->call($call->service, $call->method, $call->arguments, Values::options($call)),
            $call->timeoutMs,
            $call->idempotent,
        ));
    }

    public function callOn(string $master, Call $call): CallResult
    {
        return Values::result($this->send(
            static fn (Thrift\RosterClient $roster) =>
                $roster->callOn($master, $call->service, $call->method, $call->arguments, Values::options($call)),
            $call->timeoutMs,
            $call->idempotent,
        ));
    }

    /** @return list<CallOutcome> */
    public function callAll(Call $call): array
    {
        $outcomes = $this->send(
            static fn (Thrift\RosterClient $roster) =>
                $roster->callAll($call->service, $call->method, $call->arguments, Values::options($call)),
            $call->timeoutMs,
            $call->idempotent,
        );
        return array_map(static fn (Thrift\CallOutcome $outcome) => Values::outcome($outcome, $call), $outcomes);
    }

    /**
     * @param list<Call> $calls
     * @return list<CallOutcome>
     */
    public function callMany(array $calls): array
    {
        $outcomes = $this->send(
            static fn (Thrift\RosterClient $roster) => $roster->callMany(array_map(Values::call(...), $calls)),
            max([0, ...array_column($calls, 'timeoutMs')]),
            !in_array(false, array_column($calls, 'idempotent'), true),
        );
        return array_map(Values::outcome(...), $outcomes, $calls);
    }

    public function startCall(Call $call, string $master): Thrift\CallValues
    {
        return $this->send(
            static fn (Thrift\RosterClient $roster) => $roster->startCall(Values::call($call), $master),
            $call->timeoutMs,
            $call->idempotent,
        );
    }

    /** What came since of the call that was started here. */
    public function nextValues(Call $call): Thrift\CallValues
    {
        try {
            $next = static fn (Thrift\RosterClient $roster) => $roster->nextValues();
            return $this->send($next, $call->timeoutMs, false);
        } catch (Exception\WayFailed | Exception\InvalidRequest $failure) {
            // The call went with its connection.
            throw new Exception\CallFailed($failure->getMessage(), lost: true);
        }
    }

    public function close(): void
    {
        $this->channel->close();
    }

    /** Asks for calls. What was sent may have been executed: only what is idempotent goes on to the next way. */
    private function send(callable $question, int $patienceMs, bool $isIdempotent): object|array
    {
        try {
            $deadline = new Deadline($patienceMs + $this->timeouts->wholeMs);
            return $this->ask($deadline, $question, $patienceMs, $isIdempotent);
        } catch (Exception\WayFailed $failure) {
            throw match (true) {
                !$failure->isSent => $failure,
                $failure->timedOut => new Exception\CallTimedOut($failure->getMessage(), $patienceMs),
                $isIdempotent => $failure,
                default => new Exception\CallFailed($failure->getMessage(), lost: true),
            };
        }
    }

    private function fresh(Thrift\Freshness $told, ?int $maxAge): \Roster\Freshness
    {
        if ($maxAge !== null && $told->ageMs > $maxAge) {
            throw new Exception\TooStale($told->ageMs, $maxAge, $this->target());
        }
        return Values::freshness($told, $this->way);
    }

    private function read(Deadline $deadline, callable $question, int $patienceMs = 0): object
    {
        if ($this->rest?->left() > 0) {
            throw new Exception\WayFailed('it has just timed out');
        }
        try {
            return $this->ask($deadline, $question, $patienceMs, true);
        } catch (Exception\WayFailed $failure) {
            $this->rest = $failure->timedOut ? new Deadline(self::REST_MS) : null;
            throw $failure;
        }
    }

    /** Asks, and says in this package's words what went wrong. */
    private function ask(Deadline $deadline, callable $question, int $patienceMs, bool $isRepeatable): object|array
    {
        $client = $this->client ??= $this->client();
        $this->frames->begin($deadline, $patienceMs, $isRepeatable);
        try {
            return $question($client);
        } catch (Exception\WayFailed $failure) {
            throw $failure;
        } catch (Thrift\NotReady $told) {
            throw new Exception\NotReady($told->source, $told->message);
        } catch (Thrift\TooStale $told) {
            throw new Exception\TooStale($told->ageMs, $told->maxAgeMs, $told->message);
        } catch (Thrift\InvalidRequest $told) {
            throw new Exception\InvalidRequest($told->field, $told->message);
        } catch (Thrift\AccessDenied $told) {
            throw new Exception\AccessDenied($told->message);
        } catch (Thrift\NoMaster $told) {
            throw new Exception\NoMaster($told->serviceName, $told->message);
        } catch (Thrift\CallFailed $told) {
            throw new Exception\CallFailed($told->message, $told->master, $told->className, $told->code, $told->lost);
        } catch (Thrift\CallTimedOut $told) {
            throw new Exception\CallTimedOut($told->message, $told->timeoutMs, $told->master);
        } catch (Thrift\Overloaded $told) {
            throw new Exception\Overloaded($told->message);
        } catch (TApplicationException $told) {
            $isRefused = $told->getCode() === TApplicationException::UNKNOWN_METHOD;
            throw new Exception\WayFailed($told->getMessage(), isSent: !$isRefused);
        } catch (\Exception $strange) {
            $this->channel->close();
            throw new Exception\WayFailed("a strange answer: {$strange->getMessage()}", isSent: true);
        }
    }

    private function client(): Thrift\RosterClient
    {
        if (!class_exists(TBinaryProtocol::class)) {
            $remedy = 'Debian: php-thrift; Composer: apache/thrift';
            throw new Exception\WayFailed("Thrift's PHP library is not there ($remedy)");
        }
        $this->frames = new Frames($this->channel);
        $isAccelerated = function_exists('thrift_protocol_write_binary');
        $protocol = $isAccelerated ? new TBinaryProtocolAccelerated($this->frames) : new TBinaryProtocol($this->frames);
        return new Thrift\RosterClient($protocol);
    }
}
