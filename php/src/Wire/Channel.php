<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Exception\TransportFailed;
use Roster\Owner;
use Roster\Timeouts;

/**
 * A connection that carries one request and its answer at a time, and never returns another request's answer.
 *
 * Any error, any timeout and any answer with a wrong number closes it. A persistent connection was left by an earlier
 * request of this PHP worker: it is used only if it is still open and has no pending data.
 *
 * @internal
 */
final class Channel
{
    private const LONGEST_ANSWER = 64 << 20;

    /** The longest single wait to read or write, so that signal handlers can run. */
    private const SLICE_US = 200_000;

    /** A full backlog refuses a Unix socket immediately: the delay before the next attempt, doubled each time. */
    private const FIRST_PAUSE_US = 1_000;
    private const LONGEST_PAUSE_US = 16_000;
    private const EAGAIN = 11;
    private const EACCES = 13;
    private const ETIMEDOUT = 110;

    /** The process that keeps persistent connections: PHP would give its own ones to a fork, too. */
    private static int $keeper = 0;

    /** @var ?resource */
    private $stream = null;
    /** The same, for asking the kernel who sends what arrives. */
    private ?\Socket $socket = null;
    private int $process = 0;
    private int $number;

    /**
     * @param string $address `unix:///path` or `tcp://host:port`
     * @param ?Owner $owner who must answer, over a Unix socket; null: anybody
     */
    public function __construct(
        public readonly string $address,
        private readonly Timeouts $timeouts,
        private readonly bool $isPersistent,
        private readonly ?Owner $owner,
    ) {
        $this->number = random_int(0, 0x7fffffff);
    }

    /**
     * Sends a framed request and waits for its answer.
     *
     * @param int $patienceMs how much longer than usual the answer may take to begin
     * @param bool $isRepeatable whether it may safely be sent twice
     * @throws TransportFailed
     */
    public function ask(string $request, Deadline $deadline, int $patienceMs, bool $isRepeatable): string
    {
        $this->number = ($this->number + 1) & 0x7fffffff;
        $request = Message::numbered($request, $this->number);
        $isUsed = $this->connect($deadline);
        try {
            return $this->exchange($request, $deadline, $patienceMs);
        } catch (TransportFailed $failure) {
            // The sidecar closes idle connections; it may just have done so.
            if (!$isUsed || $failure->timedOut || ($failure->isSent && !$isRepeatable)) {
                throw $failure;
            }
        }
        $this->open($deadline);
        return $this->exchange($request, $deadline, $patienceMs);
    }

    public function close(): void
    {
        if (is_resource($this->stream)) {
            fclose($this->stream);
        }
        [$this->stream, $this->socket] = [null, null];
    }

    private function exchange(string $request, Deadline $deadline, int $patienceMs): string
    {
        $isDone = false;
        try {
            $this->send(pack('N', strlen($request)) . $request, $deadline);
            $length = unpack('N', $this->receive(4, $deadline, $patienceMs))[1];
            if ($length > self::LONGEST_ANSWER) {
                throw new TransportFailed("the answer would have $length bytes", isSent: true);
            }
            $reply = $this->receive($length, $deadline, 0);
            Message::check($request, $reply);
            $isDone = true;
            return $reply;
        } finally {
            if (!$isDone) {
                $this->close();
            }
        }
    }

    /** Ensures an open connection; true if it has been used before. */
    private function connect(Deadline $deadline): bool
    {
        // Parent and child of a fork share the connection: leave it to the parent.
        if ($this->process !== getmypid() || !is_resource($this->stream) || !$this->isIdle()) {
            $this->close();
            $this->open($deadline);
        }
        return ftell($this->stream) > 0;
    }

    private function open(Deadline $deadline): void
    {
        $this->owner?->checkFile(substr($this->address, strlen('unix://')));
        $this->process = getmypid();
        self::$keeper = self::$keeper ?: $this->process;
        $isPersistent = $this->isPersistent && self::$keeper === $this->process;
        $this->stream = $this->dial($deadline, $isPersistent);
        if ($isPersistent && !$this->isIdle()) {
            $this->close();
            $this->stream = $this->dial($deadline, $isPersistent);
        }
        $this->socket = $this->owner === null ? null : Owner::socket($this->stream);
    }

    /** @return resource */
    private function dial(Deadline $deadline, bool $isPersistent)
    {
        $flags = STREAM_CLIENT_CONNECT | ($isPersistent ? STREAM_CLIENT_PERSISTENT : 0);
        $context = stream_context_create(['socket' => ['tcp_nodelay' => true]]);
        $connecting = new Deadline($this->timeouts->connectMs);
        for ($pause = self::FIRST_PAUSE_US;; $pause = min(2 * $pause, self::LONGEST_PAUSE_US)) {
            $left = min($connecting->left(), $deadline->left());
            $stream = stream_socket_client($this->address, $error, $reason, max(1, $left) / 1e6, $flags, $context);
            if ($stream !== false) {
                return $stream;
            }
            if ($error !== self::EAGAIN || $left === 0) {
                break;
            }
            usleep(min($pause, $left));
        }
        $cure = $error === self::EACCES ? '; the socket is for its owner, and for the group that `[thrift] group` names' : '';
        throw new TransportFailed("cannot connect: [$error] $reason$cure", timedOut: $error === self::ETIMEDOUT);
    }

    /** Whether the connection is open without pending data. */
    private function isIdle(): bool
    {
        stream_set_blocking($this->stream, false);
        $waiting = fread($this->stream, 1);
        $isIdle = ($waiting === '' || $waiting === false) && !feof($this->stream);
        stream_set_blocking($this->stream, true);
        return $isIdle;
    }

    private function send(string $bytes, Deadline $deadline): void
    {
        $until = new Deadline($this->timeouts->readMs);
        for ($sent = 0; $sent < strlen($bytes);) {
            $this->wait($until->left(), $deadline, false);
            $written = fwrite($this->stream, $sent === 0 ? $bytes : substr($bytes, $sent));
            if ($written !== false && $written !== 0) {
                $sent += $written;
                $until = new Deadline($this->timeouts->readMs);
            } elseif (!stream_get_meta_data($this->stream)['timed_out']) {
                throw new TransportFailed('closed while sending');
            }
        }
    }

    private function receive(int $length, Deadline $deadline, int $patienceMs): string
    {
        $received = '';
        $until = new Deadline($this->timeouts->readMs + $patienceMs);
        while (strlen($received) < $length) {
            $us = $this->wait($until->left(), $deadline, true);
            if ($received === '' && $this->socket !== null && !$this->owner->checkSender($this->socket, $us)) {
                continue;
            }
            $piece = fread($this->stream, $length - strlen($received));
            if ($piece !== '' && $piece !== false) {
                $received .= $piece;
                $until = new Deadline($this->timeouts->readMs);
            } elseif (feof($this->stream)) {
                $where = $received === '' ? 'before the answer' : 'within the answer';
                throw new TransportFailed("closed $where", isSent: true);
            }
        }
        return $received;
    }

    /** Limits the next read or write to this time, and returns the limit. */
    private function wait(int $us, Deadline $deadline, bool $isSent): int
    {
        $left = min($us, $deadline->left());
        if ($left === 0) {
            throw new TransportFailed($isSent ? 'no answer in time' : 'timed out sending', $isSent, timedOut: true);
        }
        $slice = min($left, self::SLICE_US);
        stream_set_timeout($this->stream, 0, $slice);
        return $slice;
    }
}
