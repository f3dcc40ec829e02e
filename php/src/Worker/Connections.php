<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Quiet;

/**
 * The connections that a sidecar accepts and hands to this process, of a `[[worker]]` with `accept = "sidecar"`.
 *
 * @internal
 */
final class Connections
{
    private const MAX_ABOUT_BYTES = 4 << 10;
    /** Reserved for the application, and for classes that are loaded late. */
    private const RESERVED_DESCRIPTORS = 8;
    /** The pause after running out of descriptors: others of the group may take what is waiting. */
    private const FULL_US = 10_000;
    private const LOG_SECONDS = 10.0;
    private const READING = 0;
    /** Errors that mean that nothing will ever arrive: all others may pass. */
    private const OVER = [SOCKET_EBADF, SOCKET_ENOTCONN, SOCKET_ECONNRESET];

    private readonly \Socket $socket;
    private bool $isOver = false;
    private float $loggedAt = -INF;

    /** @param resource $stream on which they arrive */
    public function __construct(
        public readonly mixed $stream,
        private readonly \Closure $serve,
        private readonly Logger $log,
    ) {
        $this->socket = socket_import_stream($stream);
    }

    /** Serves one that has arrived; false: there is none. A failure only affects that one. */
    public function serve(): bool
    {
        $connection = $this->isOver ? null : $this->receive();
        if ($connection === null) {
            return false;
        }
        $isReported = $connection[1]['report'] ?? false;
        unset($connection[1]['report']);
        $process = getmypid();
        try {
            Returned::by('it', ($this->serve)(...$connection));
        } catch (\Throwable $error) {
            $this->log->error('what serves a connection failed: {exception}', ['exception' => $error]);
        }
        // A child that it has forked answers for nothing.
        if ($isReported === true && !$this->isOver && getmypid() === $process) {
            // The sidecar may be handing over no more, and reading nothing.
            Quiet::run(fn () => socket_send($this->socket, '.', 1, MSG_DONTWAIT));
        }
        return true;
    }

    /** Makes the sidecar hand no more to this process; those handed over before still arrive. */
    public function takeNoMore(): void
    {
        if (!$this->isOver) {
            Quiet::run(fn () => socket_shutdown($this->socket, self::READING));
        }
    }

    /** Whether no more will arrive. */
    public function isOver(): bool
    {
        return $this->isOver;
    }

    /** @return ?array{resource, array<string, string>} the next one, and what is known about it; null: there is none */
    private function receive(): ?array
    {
        if (!self::hasRoom()) {
            $this->logFull('a connection waits: this process may have no more descriptors (max_files)');
            usleep(self::FULL_US);
            return null;
        }
        $message = [
            'name' => [],
            'buffer_size' => self::MAX_ABOUT_BYTES,
            'controllen' => socket_cmsg_space(SOL_SOCKET, SCM_RIGHTS, 1),
        ];
        $bytes = Quiet::run(function () use (&$message): int|false {
            return socket_recvmsg($this->socket, $message, MSG_DONTWAIT);
        });
        if ($bytes === false || $bytes === 0) {
            $this->isOver = $bytes === 0 || in_array(socket_last_error($this->socket), self::OVER, true);
            return null;
        }
        $handed = $message['control'][0]['data'][0] ?? null;
        $connection = $handed instanceof \Socket ? socket_export_stream($handed) : $handed;
        if (!is_resource($connection)) {
            $this->logFull('a connection is lost: it came without its descriptor');
            return null;
        }
        return [$connection, json_decode($message['iov'][0] ?? '', true) ?: []];
    }

    /** Whether a connection can be received: otherwise the kernel would drop it. */
    private static function hasRoom(): bool
    {
        $opened = [];
        do {
            $opened[] = Quiet::run(static fn () => fopen('/dev/null', 'r'));
        } while (end($opened) !== false && count($opened) <= self::RESERVED_DESCRIPTORS);
        return end($opened) !== false;
    }

    private function logFull(string $message): void
    {
        $now = hrtime(true) / 1e9;
        if ($now - $this->loggedAt >= self::LOG_SECONDS) {
            $this->loggedAt = $now;
            $this->log->error($message);
        }
    }
}
