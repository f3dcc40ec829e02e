<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\AccessDenied;
use Roster\Exception\CallFailed;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NotReady;
use Roster\Exception\RosterException;
use Roster\Exception\TooStale;
use Roster\Exception\Unavailable;
use Roster\Exception\TransportFailed;
use Roster\Read\Answer;
use Roster\Read\Path;
use Roster\Read\SharedFile;
use Roster\Thrift\CallValues;
use Roster\Wire\MessagePack;
use Roster\Wire\Deadline;
use Roster\Wire\Endpoint;
use Roster\Wire\Values;

/**
 * All transports to the sidecar, for when its shared file alone is not enough.
 *
 * @internal
 */
final class Transports
{
    /** @var list<SharedFile|Endpoint> in the order in which they are tried */
    private readonly array $readers;
    /** @var list<Endpoint> */
    private readonly array $endpoints;

    /** @var list<SharedFile|Endpoint> those of the last request, */
    private array $asked;
    /** @var array<int, RosterException> why some did not answer, */
    private array $failures = [];
    /** and which one did. */
    private ?int $answered = null;
    /** @var array<string, true> the targets whose failure was logged, until they answer again */
    private array $logged = [];

    /**
     * @param non-empty-array<string, string> $places the shared file next to each Unix socket; empty: none
     * @param bool $isSought whether these are the default places
     * @param ?object $logger a `Psr\Log\LoggerInterface`
     */
    public function __construct(
        private readonly array $places,
        private readonly bool $isSought,
        private readonly string $tcp,
        private readonly ?Owner $owner,
        private readonly Timeouts $timeouts,
        bool $isPersistent,
        private readonly ?object $logger,
    ) {
        $this->endpoints = $this->endpoints($isPersistent);
        $over = fn (Transport $over) =>
            array_filter($this->endpoints, static fn (Endpoint $to) => $to->transport() === $over);
        $files = array_values(array_unique(array_filter($places, static fn (string $shared) => $shared !== '')));
        $first = array_map(static fn (string $file) => new SharedFile($file, $owner), array_slice($files, 0, 1));
        $left = array_map(static fn (string $file) => new SharedFile($file, $owner, isLast: true), $files);
        // Over TCP, anybody on the machine may answer in place of a dead sidecar: what it left behind is worth more.
        $this->readers = [...$first, ...$over(Transport::Unix), ...$left, ...$over(Transport::Tcp)];
        $this->asked = $this->readers;
    }

    /**
     * The answer of the first transport that has one.
     *
     * @param string $question a method of the shared file and of endpoints
     * @param ?RosterException $failure why the shared file has not answered, if it was tried before
     */
    public function read(string $question, string|array $of, ?int $maxAge, ?RosterException $failure): Answer
    {
        if ($question === 'nodes' || $question === 'children') {
            Path::check(...(array) $of);
        }
        $deadline = new Deadline($this->timeouts->totalMs);
        return $this->ask($this->readers, static fn (SharedFile|Endpoint $reader) => match (true) {
            $reader instanceof Endpoint => $reader->$question($of, $maxAge, $deadline),
            !$reader->isLast && $failure !== null => throw $failure,
            default => new Answer($reader->$question($of, $maxAge), $reader->freshness),
        });
    }

    /** The same from the sidecar itself. */
    public function consult(callable $question): mixed
    {
        $deadline = new Deadline($this->timeouts->totalMs);
        return $this->ask($this->endpoints, static fn (Endpoint $endpoint) => $question($endpoint, $deadline));
    }

    /** How a watch asks the sidecar, over separate connections. */
    public function consultant(): \Closure
    {
        $endpoints = $this->endpoints(isPersistent: false);
        $deadline = fn () => new Deadline($this->timeouts->totalMs);
        return fn (callable $question) => $this->ask($endpoints, static fn ($endpoint) => $question($endpoint, $deadline()));
    }

    /**
     * The values of a call as they arrive, over a separate connection.
     *
     * @param ?string $master its id; null: any
     * @return \Generator<int, mixed>
     */
    public function stream(Call $call, ?string $master): \Generator
    {
        $start = static fn (Endpoint $endpoint) => [$endpoint, $endpoint->startCall($call, $master)];
        [$endpoint, $given] = $this->consultant()($start);
        try {
            while (true) {
                foreach ($given->values as $value) {
                    yield self::unpacked($value);
                }
                if ($given->completion !== null) {
                    return;
                }
                $given = $endpoint->nextValues($call);
            }
        } finally {
            $endpoint->close();
        }
    }

    /**
     * The same for a method that is sent the values of `$input` while it runs, each when it is needed.
     *
     * @param iterable<mixed> $input
     * @return \Generator<int, mixed>
     */
    public function exchange(Call $call, ?string $master, iterable $input): \Generator
    {
        $endpoint = $this->consultant()(static function (Endpoint $endpoint) use ($call, $master): Endpoint {
            $endpoint->openCall($call, $master);
            return $endpoint;
        });
        try {
            foreach ($input as $value) {
                try {
                    $packed = MessagePack::pack($value);
                } catch (\InvalidArgumentException $why) {
                    throw new InvalidRequest('input', $why->getMessage());
                }
                do {
                    $sent = $endpoint->sendValues($call, [$packed], false);
                    yield from self::values($sent->values);
                    if ($sent->values->completion !== null) {
                        return;
                    }
                } while ($sent->accepted === 0);
            }
            $given = $endpoint->sendValues($call, [], true)->values;
            yield from self::values($given);
            while ($given->completion === null) {
                $given = $endpoint->nextValues($call);
                yield from self::values($given);
            }
        } finally {
            $endpoint->close();
        }
    }

    private static function values(CallValues $given): \Generator
    {
        foreach ($given->values as $value) {
            yield self::unpacked($value);
        }
    }

    private static function unpacked(string $value): mixed
    {
        try {
            return MessagePack::unpack($value);
        } catch (\UnexpectedValueException $why) {
            throw new CallFailed("a strange answer: {$why->getMessage()}", lost: true);
        }
    }

    /** Notes that the shared file has answered. */
    public function passOver(): void
    {
        [$this->asked, $this->failures, $this->answered] = [$this->readers, [], 0];
        unset($this->logged[$this->readers[0]->target()]);
    }

    /** @return list<Attempt> the result of each transport in the last request */
    public function attempts(): array
    {
        $attempt = function (int $index, SharedFile|Endpoint $endpoint): Attempt {
            $failure = $this->failures[$index] ?? null;
            $answered = $failure !== null ? false : ($this->answered === $index ?: null);
            return new Attempt($endpoint->transport(), $endpoint->target(), $answered, $failure?->getMessage());
        };
        return array_map($attempt, array_keys($this->asked), $this->asked);
    }

    /** @return list<Attempt> their results now */
    public function tried(): array
    {
        return array_map(function (SharedFile|Endpoint $endpoint): Attempt {
            try {
                $endpoint->nodes(['/'], null, new Deadline($this->timeouts->totalMs));
                return new Attempt($endpoint->transport(), $endpoint->target(), true);
            } catch (AccessDenied) {
                // So it answers, and has its rules.
                return new Attempt($endpoint->transport(), $endpoint->target(), true);
            } catch (RosterException $failure) {
                return new Attempt($endpoint->transport(), $endpoint->target(), false, $failure->getMessage());
            }
        }, $this->readers);
    }

    /** @return list<Endpoint> */
    private function endpoints(bool $isPersistent): array
    {
        $to = fn (Transport $transport, string $address, ?Owner $owner = null) =>
            new Endpoint($transport, $address, $this->timeouts, $isPersistent, $owner);
        $sockets = array_filter(array_map(strval(...), array_keys($this->places)));
        return [
            ...array_map(fn (string $socket) => $to(Transport::Unix, "unix://$socket", $this->owner), $sockets),
            ...($this->tcp === '' ? [] : [$to(Transport::Tcp, "tcp://$this->tcp")]),
        ];
    }

    /**
     * The answer of the first one that has one.
     *
     * @param list<SharedFile|Endpoint> $readers
     */
    private function ask(array $readers, callable $question): mixed
    {
        $this->asked = $readers;
        $this->failures = [];
        $this->answered = null;
        foreach ($readers as $index => $reader) {
            try {
                $answer = $question($reader);
                $this->answered = $index;
                unset($this->logged[$reader->target()]);
                return $answer;
            } catch (TransportFailed | NotReady | TooStale | AccessDenied $failure) {
                if ($failure instanceof AccessDenied && $reader->transport() !== Transport::Tcp) {
                    throw $failure;
                }
                // Clients over TCP are not identified: a denial there says nothing about this user's rights.
                $this->failures[$index] = $failure;
                $this->log($reader, $failure);
            }
        }
        throw $this->refusal();
    }

    /** What the sidecar said about its data is more useful than a broken transport. */
    private function refusal(): RosterException
    {
        $ages = array_filter($this->failures, static fn ($failure) => $failure instanceof TooStale);
        usort($ages, static fn (TooStale $one, TooStale $other) => $one->ageMs <=> $other->ageMs);
        $unready = array_filter($this->failures, static fn ($failure) => $failure instanceof NotReady);
        return match (true) {
            $ages !== [] => new TooStale($ages[0]->ageMs, $ages[0]->maxAgeMs, implode('; ', $this->attempts())),
            $unready !== [] => end($unready),
            count($this->failures) === 1 && end($this->failures) instanceof AccessDenied => end($this->failures),
            default => new Unavailable([...$this->attempts(), ...$this->passedOver()]),
        };
    }

    /** @return list<Attempt> */
    private function passedOver(): array
    {
        $sockets = $this->isSought ? DefaultPaths::passedOver() : [];
        $attempt = static fn (string $socket, string $why) =>
            new Attempt(Transport::Unix, "unix://$socket", failure: "not tried: $why");
        return array_map($attempt, array_keys($sockets), $sockets);
    }

    private function log(SharedFile|Endpoint $reader, RosterException $failure): void
    {
        $target = $reader->target();
        if ($this->logged[$target] ?? false) {
            return;
        }
        $this->logged[$target] = true;
        $context = ['target' => $target, 'failure' => $failure->getMessage()];
        $this->logger?->warning('roster: {target}: {failure}', $context);
    }
}
