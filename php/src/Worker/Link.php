<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\Disconnected;

/**
 * Stays connected: authenticates, detects a register that is gone, and reconnects with growing delays.
 *
 * @internal
 */
final class Link
{
    private const CONNECT_TIMEOUT = 10.0;
    /** How often to check a connection in progress. */
    private const CONNECT_INTERVAL = 0.01;
    /** How long a register may be silent before it is pinged, and how long it then has to answer. */
    private const PING_INTERVAL = 20.0;
    private const PONG_TIMEOUT = 3.0;
    private const PING_CHECK_INTERVAL = 1.0;
    /** The first retry is delayed by a random part of this, each further one by a part of twice as much. */
    private const RETRY_DELAY = 0.5;
    private const MAX_RETRY_DELAY = 30.0;
    /** If a register closes a connection sooner than this after accepting it, the delay keeps growing. */
    private const BACKOFF_RESET_AFTER = 1.0;

    private ?Line $line = null;
    private bool $isJoined = false;
    /** When the connection was begun, and when to try next, in seconds of hrtime(). */
    private ?float $since = null;
    /** Which process has it: its children have none. */
    private ?int $process = null;
    private float $retryAt = 0;
    private int $failures = 0;
    private ?float $pingedAt = null;
    /** Why it was lost, as logged. */
    private ?string $loss = null;

    public function __construct(
        private readonly Channel|Dialer $to,
        #[\SensitiveParameter] private readonly string $token,
        private readonly string $id,
        private readonly Logger $log,
        private readonly float $pingInterval = self::PING_INTERVAL,
        private readonly float $pongTimeout = self::PONG_TIMEOUT,
        private readonly float $connectTimeout = self::CONNECT_TIMEOUT,
    ) {
    }

    /** The connection, while it is accepted. */
    public function line(): ?Line
    {
        return $this->isJoined ? $this->line : null;
    }

    /** @return ?resource even if it is not accepted yet */
    public function stream(): mixed
    {
        return $this->line?->stream;
    }

    /**
     * The received messages, each with its size.
     *
     * @param bool $isReading whether there is room for more
     * @return list<array{array<mixed>, int}>
     * @throws Disconnected if there is no connection any more, and will be none
     */
    public function receive(bool $isReading): array
    {
        $now = self::now();
        if ($this->process !== null && $this->process !== getmypid()) {
            $this->close();
            throw new Disconnected(Line::FORKED);
        }
        try {
            $this->connect($now);
            $messages = $isReading ? $this->line?->receive() ?? [] : [];
            $messages = $this->isJoined ? $messages : $this->enter($messages, $now);
            if ($messages === [] && ($end = $this->line?->end()) !== null) {
                throw new Disconnected($end);
            }
            // Not before it has read what arrived while it was busy.
            if (!$this->isJoined && $this->since !== null && $now - $this->since > $this->connectTimeout) {
                throw new Disconnected('it does not answer');
            }
            if ($this->line === null) {
                return [];
            }
            $this->line->write();
            $this->watch($now, $isReading);
            return $messages;
        } catch (Disconnected $loss) {
            $this->lose($loss, $now);
            return [];
        }
    }

    /** After how many seconds there is something to do, even if nothing arrives. */
    public function patience(): float
    {
        return match (true) {
            $this->line === null && $this->since === null => max(0.0, $this->retryAt - self::now()),
            $this->line === null => self::CONNECT_INTERVAL,
            // The end of a channel is detected anyway.
            $this->to instanceof Channel => self::PING_INTERVAL,
            default => self::PING_CHECK_INTERVAL,
        };
    }

    public function close(): void
    {
        $this->line?->close();
        $this->to instanceof Dialer && $this->to->close();
        [$this->line, $this->isJoined, $this->since, $this->pingedAt] = [null, false, null, null];
    }

    private function connect(float $now): void
    {
        if ($this->line === null && $now >= $this->retryAt) {
            $this->since ??= $now;
            $this->process = getmypid();
            $this->line = $this->to->open();
            $this->line?->send(['cmd' => 'auth', 'token' => $this->token, 'native' => 1, 'id' => $this->id]);
        }
    }

    /**
     * Nothing else can be requested before the answer to the token.
     *
     * @param list<array{array<mixed>, int}> $messages
     * @return list<array{array<mixed>, int}> those after it
     */
    private function enter(array $messages, float $now): array
    {
        foreach ($messages as $index => [$message]) {
            if ($message['cmd'] === 'auth-failed') {
                $why = $message['message'] ?? $message['reason'] ?? '';
                throw new Disconnected('refused: ' . (is_string($why) ? substr($why, 0, 1_000) : ''));
            }
            if ($message['cmd'] === 'auth-success') {
                [$this->isJoined, $this->since] = [true, $now];
                if ($this->loss !== null || $this->to instanceof Dialer) {
                    $this->log->info('connected to {address}', ['address' => $this->to->address()]);
                }
                $this->loss = null;
                return array_slice($messages, $index + 1);
            }
        }
        return [];
    }

    private function watch(float $now, bool $isReading): void
    {
        if (!$this->isJoined || $this->to instanceof Channel) {
            return;
        }
        if (!$isReading) {
            $this->line->heardAt = hrtime(true);
        }
        $heardAt = $this->line->heardAt / 1e9;
        if ($this->pingedAt !== null && $this->pingedAt <= $heardAt) {
            $this->pingedAt = null;
        }
        if ($this->pingedAt === null && $now - $heardAt >= $this->pingInterval) {
            $this->pingedAt = $now;
            $this->line->send(['cmd' => 'ping', 'uuid' => bin2hex(random_bytes(16))]);
        } elseif ($this->pingedAt !== null && $now - $this->pingedAt >= $this->pongTimeout) {
            throw new Disconnected('it does not answer a ping');
        }
    }

    private function lose(Disconnected $loss, float $now): void
    {
        if ($this->to instanceof Channel) {
            $this->close();
            throw $loss;
        }
        if ($this->isJoined && $now - $this->since > self::BACKOFF_RESET_AFTER) {
            $this->failures = 0;
        }
        $this->close();
        $most = min(self::MAX_RETRY_DELAY, self::RETRY_DELAY * 2 ** min($this->failures++, 16));
        $this->retryAt = $now + $most * random_int(0, 1_000_000) / 1e6;
        if ($this->loss !== $loss->getMessage()) {
            $this->loss = $loss->getMessage();
            $context = ['address' => $this->to->address(), 'reason' => $this->loss];
            $this->log->warning('not connected to {address}, trying again: {reason}', $context);
        }
    }

    private static function now(): float
    {
        return hrtime(true) / 1e9;
    }
}
