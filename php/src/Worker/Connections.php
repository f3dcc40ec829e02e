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

    private readonly \Socket $socket;
    private bool $isOver = false;

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
        try {
            $connection !== null && ($this->serve)(...$connection);
        } catch (\Throwable $error) {
            $this->log->error('what serves a connection failed: {exception}', ['exception' => $error]);
        }
        return $connection !== null;
    }

    /** Whether no more will come. */
    public function isOver(): bool
    {
        return $this->isOver;
    }

    /** @return ?array{resource, array<string, string>} the next one, and what is known of it; null: none has come */
    private function receive(): ?array
    {
        $message = [
            'name' => [],
            'buffer_size' => self::MAX_ABOUT_BYTES,
            'controllen' => socket_cmsg_space(SOL_SOCKET, SCM_RIGHTS, 1),
        ];
        $bytes = Quiet::run(function () use (&$message): int|false {
            return socket_recvmsg($this->socket, $message, MSG_DONTWAIT);
        });
        if ($bytes === false || $bytes === 0) {
            $this->isOver = $bytes === 0 || socket_last_error() !== SOCKET_EAGAIN;
            return null;
        }
        $handed = $message['control'][0]['data'][0] ?? null;
        $connection = $handed instanceof \Socket ? socket_export_stream($handed) : $handed;
        if (!is_resource($connection)) {
            return null;
        }
        return [$connection, json_decode($message['iov'][0] ?? '', true) ?: []];
    }
}
