<?php

declare(strict_types=1);

namespace Roster\Bench;

/**
 * A session of ZooKeeper's wire protocol, as a page opens one that asks ZooKeeper itself: connect, getData, close.
 *
 * Each of its messages is a length of four bytes and so many bytes, big-endian throughout.
 */
final class ZooKeeper
{
    private const TIMEOUT_MS = 10_000;
    /** Seconds. */
    private const PATIENCE = 20;
    private const GET_DATA = 4;
    private const CLOSE = -11;

    /** @var resource */
    private $stream;

    public function __construct(string $address)
    {
        $this->stream = stream_socket_client("tcp://$address", $error, $reason, self::PATIENCE)
            ?: throw new \RuntimeException("$address: $reason");
        stream_set_timeout($this->stream, self::PATIENCE);
        // Protocol 0, no transaction seen, no earlier session, an empty password of 16 bytes, not read-only.
        $this->say(pack('NJNJN', 0, 0, self::TIMEOUT_MS, 0, 16) . str_repeat("\0", 16) . "\0");
        $this->hear();
    }

    public function data(string $path): string
    {
        $this->say(pack('NNN', 1, self::GET_DATA, strlen($path)) . $path . "\0");
        $reply = $this->hear();
        ['error' => $error, 'length' => $length] = unpack('Nnumber/Jtransaction/Nerror/Nlength', $reply);
        return $error === 0 ? substr($reply, 20, $length) : throw new \RuntimeException("$path: error $error");
    }

    public function close(): void
    {
        $this->say(pack('NN', 2, self::CLOSE & 0xffffffff));
        $this->hear();
        fclose($this->stream);
    }

    private function say(string $message): void
    {
        fwrite($this->stream, pack('N', strlen($message)) . $message);
    }

    private function hear(): string
    {
        return $this->take(unpack('N', $this->take(4))[1]);
    }

    private function take(int $length): string
    {
        for ($taken = ''; strlen($taken) < $length; $taken .= $piece) {
            $piece = (string) fread($this->stream, $length - strlen($taken));
            if ($piece === '') {
                throw new \RuntimeException('ZooKeeper does not answer');
            }
        }
        return $taken;
    }
}
