<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\Disconnected;
use Roster\Exception\InvalidRequest;
use Roster\Quiet;

/**
 * Connects to a register, step by step, without blocking.
 *
 * @internal
 */
final class Dialer
{
    private const FORM = '~^(?:unix:///.+|(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^/:\s]+):(\d{1,5}))\z~';

    private readonly string $target;
    /** The name that the certificate must have; null: no TLS. */
    private readonly ?string $host;
    /** @var ?resource */
    private $stream = null;
    private bool $isConnected = false;

    /** @param ?string $ca a file of authorities in PEM; null: those of this machine */
    public function __construct(private readonly string $address, private readonly ?string $ca)
    {
        if (preg_match(self::FORM, $address, $parts) !== 1) {
            throw new InvalidRequest('address', "`$address` is none: unix:///path, tcp://host:port or tls://host:port");
        }
        [, $scheme, $host, $port] = $parts + ['', '', '', ''];
        if ($scheme === 'tls' && !extension_loaded('openssl')) {
            throw new InvalidRequest('address', 'tls:// takes PHP\'s extension openssl');
        }
        $this->target = $scheme === '' ? $address : "tcp://$host:$port";
        $this->host = $scheme === 'tls' ? trim($host, '[]') : null;
    }

    public function address(): string
    {
        return $this->address;
    }

    /**
     * The connection; null: not established yet.
     *
     * @throws Disconnected if it cannot be established
     */
    public function open(): ?Line
    {
        $this->stream ??= $this->dial();
        if ((!$this->isConnected && !$this->connect()) || ($this->host !== null && !$this->secure())) {
            return null;
        }
        $line = new Line($this->stream);
        $this->forget();
        return $line;
    }

    /** Abandons what it has begun. */
    public function close(): void
    {
        $stream = $this->stream;
        $this->forget();
        if (is_resource($stream)) {
            fclose($stream);
        }
    }

    private function forget(): void
    {
        [$this->stream, $this->isConnected] = [null, false];
    }

    /** @return resource */
    private function dial(): mixed
    {
        $tls = ['peer_name' => $this->host] + ($this->ca === null ? [] : ['cafile' => $this->ca]);
        $context = stream_context_create(['socket' => ['tcp_nodelay' => true], 'ssl' => $tls]);
        $flags = STREAM_CLIENT_CONNECT | STREAM_CLIENT_ASYNC_CONNECT;
        $dial = fn () => stream_socket_client($this->target, $error, $reason, 0, $flags, $context);
        $stream = Quiet::run($dial) ?: throw new Disconnected('cannot connect: ' . Quiet::$warning);
        stream_set_blocking($stream, false);
        return $stream;
    }

    private function connect(): bool
    {
        if (!Loop::isWritable($this->stream, $failure)) {
            return $failure === null ? false : throw new Disconnected("cannot connect: $failure");
        }
        if (stream_socket_get_name($this->stream, true) === false) {
            throw new Disconnected('cannot connect: nobody listens there, or the host cannot be reached');
        }
        return $this->isConnected = true;
    }

    private function secure(): bool
    {
        $method = STREAM_CRYPTO_METHOD_TLSv1_2_CLIENT | STREAM_CRYPTO_METHOD_TLSv1_3_CLIENT;
        Quiet::$warning = 'closed at the other end';
        $isDone = Quiet::run(fn () => stream_socket_enable_crypto($this->stream, true, $method));
        return $isDone === false ? throw new Disconnected('no TLS: ' . Quiet::$warning) : $isDone === true;
    }
}
