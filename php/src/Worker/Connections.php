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
    /** Kept free for the application, and for the classes that are loaded last. */
    private const RESERVED_DESCRIPTORS = 8;
    /** After a failure for want of descriptors: others of the group may take what waits. */
    private const FULL_US = 10_000;
    private const LOG_SECONDS = 10.0;
    private const READING = 0;
    /** What says that nothing will ever come: all else may be over some time. */
    private const OVER = [SOCKET_EBADF, SOCKET_ENOTCONN, SOCKET_ECONNRESET];

    private readonly \Socket $socket;
    private bool $isOver = false;
    private float $loggedAt = -INF;

    /** @param resource $stream over which they come */
    public function __construct(
        public readonly mixed $stream,
        private readonly \Closure $serve,
        private readonly Logger $log,
    ) {
        $this->socket = socket_import_stream($stream);
    }

    /** Serves one that has come; false: none has. What fails costs that one alone. */
    public function serve(): bool
    {
        $connection = $this->isOver ? null : $this->receive();
        if ($connection === null) {
            return false;
        }
        $isReported = $connection[1]['report'] ?? false;
        unset($connection[1]['report']);
        try {
            ($this->serve)(...$connection);
        } catch (\Throwable $error) {
            $this->log->error('what serves a connection failed: {exception}', ['exception' => $error]);
        }
        if ($isReported === true && !$this->isOver) {
            // The sidecar may hand it no more, and read nothing.
            Quiet::run(fn () => socket_send($this->socket, '.', 1, MSG_DONTWAIT));
        }
        return true;
    }

    /** Has the sidecar hand no more to this process; what it has handed before still comes. */
    public function takeNoMore(): void
    {
        if (!$this->isOver) {
            Quiet::run(fn () => socket_shutdown($this->socket, self::READING));
        }
    }

    /** Whether no more will come. */
    public function isOver(): bool
    {
        return $this->isOver;
    }

    /** @return ?array{resource, array<string, string>} the next one, and what is known of it; null: none has come */
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

    /** Whether a connection could be taken: the kernel would drop it otherwise. */
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
