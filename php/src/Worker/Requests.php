<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\InvalidRequest;
use Roster\Exception\Overloaded;
use Roster\Quiet;

/**
 * Makes a sidecar listen on addresses allowed by `may_listen`, while this process runs.
 *
 * @internal
 */
final class Requests
{
    private const MAX_ADDRESS_BYTES = 512;
    private const MAX_ANSWER_BYTES = 4 << 10;
    private const TIMEOUT_SECONDS = 10;

    private readonly \Socket $socket;

    /** @param resource $stream on which this process sends requests */
    public function __construct(private readonly mixed $stream)
    {
        $this->socket = socket_import_stream($stream);
    }

    /** @return resource a non-blocking one */
    public function listen(string $address): mixed
    {
        if (str_contains($address, "\n") || strlen($address) > self::MAX_ADDRESS_BYTES) {
            throw new InvalidRequest('address', 'it is no line of at most ' . self::MAX_ADDRESS_BYTES . ' bytes');
        }
        $sent = Quiet::run(fn () => socket_send($this->socket, "$address\n", strlen($address) + 1, MSG_DONTWAIT));
        if ($sent === false || Loop::select([$this->stream], [], self::TIMEOUT_SECONDS) === []) {
            throw new Overloaded('the sidecar does not answer what a worker asks it to listen on');
        }
        $message = [
            'name' => [],
            'buffer_size' => self::MAX_ANSWER_BYTES,
            'controllen' => socket_cmsg_space(SOL_SOCKET, SCM_RIGHTS, 1),
        ];
        Quiet::run(function () use (&$message): int|false {
            return socket_recvmsg($this->socket, $message, MSG_DONTWAIT);
        });
        $given = $message['control'][0]['data'][0] ?? null;
        $listener = $given instanceof \Socket ? socket_export_stream($given) : $given;
        if (!is_resource($listener)) {
            $answer = json_decode($message['iov'][0] ?? '', true);
            throw new InvalidRequest('address', "`$address`: " . ($answer['error'] ?? 'no socket came of it'));
        }
        stream_set_blocking($listener, false);
        return $listener;
    }
}
