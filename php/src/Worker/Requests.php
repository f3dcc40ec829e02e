<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\Disconnected;
use Roster\Exception\InvalidRequest;
use Roster\Exception\Overloaded;
use Roster\Quiet;

/**
 * Makes a sidecar listen on addresses allowed by `may_listen`, while this process runs.
 *
 * Answers have no number: after one that did not come in time nothing more is requested, since it may come yet.
 *
 * @internal
 */
final class Requests
{
    private const MAX_ADDRESS_BYTES = 512;
    private const MAX_ANSWER_BYTES = 4 << 10;
    private const TIMEOUT_SECONDS = 10.0;

    private readonly \Socket $socket;
    private readonly int $process;
    /** Whether a request was left without its answer. */
    private bool $isOver = false;

    /** @param resource $stream on which this process sends requests */
    public function __construct(
        private readonly mixed $stream,
        private readonly float $timeoutSeconds = self::TIMEOUT_SECONDS,
    ) {
        $this->socket = socket_import_stream($stream);
        $this->process = getmypid();
    }

    /** @return resource a non-blocking one */
    public function listen(string $address): mixed
    {
        if (str_contains($address, "\n") || strlen($address) > self::MAX_ADDRESS_BYTES) {
            throw new InvalidRequest('address', 'it is no line of at most ' . self::MAX_ADDRESS_BYTES . ' bytes');
        }
        if ($this->process !== getmypid()) {
            throw new Disconnected(Line::FORKED);
        }
        if ($this->isOver) {
            throw new Overloaded('the sidecar has not answered an earlier request of this worker to listen');
        }
        $this->isOver = true;
        try {
            $message = $this->ask("$address\n");
            $this->isOver = false;
        } finally {
            $this->isOver && fclose($this->stream);
        }
        $given = $message['control'][0]['data'][0] ?? null;
        $listener = $given instanceof \Socket ? socket_export_stream($given) : $given;
        if (!is_resource($listener)) {
            $answer = json_decode($message['iov'][0] ?? '', true);
            throw new InvalidRequest('address', "`$address`: " . ($answer['error'] ?? 'no socket came of it'));
        }
        stream_set_blocking($listener, false);
        return $listener;
    }

    /** @return array<string, mixed> the answer, with its descriptors */
    private function ask(string $line): array
    {
        if (Quiet::run(fn () => socket_send($this->socket, $line, strlen($line), MSG_DONTWAIT)) !== strlen($line)) {
            throw new Overloaded('the sidecar does not read what a worker asks it to listen on');
        }
        $this->await();
        $message = [
            'name' => [],
            'buffer_size' => self::MAX_ANSWER_BYTES,
            'controllen' => socket_cmsg_space(SOL_SOCKET, SCM_RIGHTS, 1),
        ];
        $bytes = Quiet::run(function () use (&$message): int|false {
            return socket_recvmsg($this->socket, $message, MSG_DONTWAIT);
        });
        return $bytes ? $message : throw new Disconnected('the sidecar listens for this worker no more: it is gone');
    }

    /** Waits for the answer, however many signals come meanwhile. */
    private function await(): void
    {
        $until = hrtime(true) + $this->timeoutSeconds * 1e9;
        while (Loop::select([$this->stream], [], max(0.0, $until - hrtime(true)) / 1e9, $failure) === []) {
            if ($failure !== null) {
                throw new Overloaded("the answer of the sidecar cannot be awaited: $failure");
            }
            if (hrtime(true) >= $until) {
                throw new Overloaded('the sidecar does not answer what a worker asks it to listen on');
            }
        }
    }
}
