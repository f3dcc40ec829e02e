<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Exception\TransportFailed;
use Roster\Owner;
use Roster\Quiet;

use function strlen;

/**
 * Sends the results of calls to instances, at the end of the page, or when many have accumulated: one-way, over a
 * separate connection, without Thrift's library. It never waits and never throws: if no sidecar accepts them, they are
 * lost.
 *
 * @internal
 */
final class Reporter
{
    /** The limits of a message, in reports and in bytes. */
    private const MOST = 256;
    private const MOST_BYTES = 32 << 10;

    /** A process that keeps running sends older ones together with the next. */
    private const OLDEST_S = 1.0;

    private const CONNECT_S = 0.02;

    /** Version and type (oneway), name, sequence id; an argument that is a struct, with a list of structs. */
    private const HEAD = "\x80\x01\x00\x04\0\0\0\x06report\0\0\0\0\x0c\0\x01\x0f\0\x01\x0c";
    private const END = "\0\0";

    /** @var array<self> those of all clients of this process, by where they send to */
    private static array $all = [];

    /** @var list<string> */
    private array $reports = [];
    private int $bytes = 0;
    private float $since = 0.0;
    private int $process = 0;
    private bool $isRegistered = false;

    /**
     * @param list<string> $sockets the first one that accepts them gets them
     * @param ?Owner $owner their required owner; null: anybody
     */
    public function __construct(private readonly array $sockets, private readonly ?Owner $owner)
    {
    }

    /**
     * That of all clients with the same sockets and owner: a process may have a client for each of its jobs.
     *
     * @param list<string> $sockets
     */
    public static function of(array $sockets, ?Owner $owner): self
    {
        return self::$all[serialize([$sockets, $owner?->user])] ??= new self($sockets, $owner);
    }

    public function add(string $service, string $address, bool $isOk, ?int $durationMs): void
    {
        // Thrift strings must be UTF-8.
        if (preg_match('//u', "$service$address") !== 1 || strlen($service) + strlen($address) > self::MOST_BYTES) {
            return;
        }
        $now = microtime(true);
        if ($this->process !== getmypid()) {
            // What a parent accumulated, it sends itself.
            [$this->reports, $this->bytes, $this->since, $this->process] = [[], 0, $now, getmypid()];
        }
        $report = "\x0b\0\x01" . self::text($service) . "\x0b\0\x02" . self::text($address) . "\x02\0\x03" . chr((int) $isOk);
        if ($durationMs !== null) {
            $report .= "\x08\0\x04" . pack('N', min(max($durationMs, 0), 0x7fffffff));
        }
        if ($this->bytes + strlen($report) > self::MOST_BYTES) {
            $this->send();
        }
        if ($this->reports === []) {
            $this->since = max($this->since, $now - self::OLDEST_S);
        }
        $this->reports[] = "$report\0";
        $this->bytes += strlen($report) + 1;
        if (!$this->isRegistered) {
            $this->isRegistered = true;
            register_shutdown_function($this->send(...));
        }
        if (count($this->reports) === self::MOST || $now - $this->since > self::OLDEST_S) {
            $this->send();
        }
    }

    /** Sends what has accumulated. */
    public function send(): void
    {
        [$reports, $this->reports, $this->bytes, $this->since] = [$this->reports, [], 0, microtime(true)];
        if ($reports === [] || $this->process !== getmypid()) {
            return;
        }
        $message = self::HEAD . pack('N', count($reports)) . implode($reports) . self::END;
        Quiet::begin();
        try {
            foreach ($this->sockets as $socket) {
                if ($this->sendTo($socket, pack('N', strlen($message)) . $message)) {
                    return;
                }
            }
        } finally {
            Quiet::end();
        }
    }

    private function sendTo(string $socket, string $message): bool
    {
        try {
            $this->owner?->checkFile($socket);
        } catch (TransportFailed) {
            return false;
        }
        $stream = stream_socket_client("unix://$socket", timeout: self::CONNECT_S);
        if ($stream === false) {
            return false;
        }
        // A hanging sidecar has room for one message, or has had it.
        stream_set_blocking($stream, false);
        $isSent = fwrite($stream, $message) === strlen($message);
        fclose($stream);
        return $isSent;
    }

    private static function text(string $text): string
    {
        return pack('N', strlen($text)) . $text;
    }
}
