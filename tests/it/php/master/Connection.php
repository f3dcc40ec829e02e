<?php
/**
 * A connection to one register, made again when it is lost; as the package does it, if the address holds no more than one
 * colon: it splits what it has joined.
 */
class Connection
{
    private const RETRY = 0.2;

    private $socket = null;
    private string $received = '';
    private string $unsent = '';
    private Tunnel $tunnel;
    private bool $left = false;

    public function __construct(private string $host, private int $port, private string $token)
    {
        $this->connect();
    }

    public function socket()
    {
        return $this->socket;
    }

    public function leave(): void
    {
        $this->left = true;
        $this->close();
    }

    public function say(array $message): void
    {
        // As React does: it waits, however much it is, until the loop finds that the socket can be written to.
        $this->unsent .= $this->socket ? pack_value($message) : '';
    }

    public function hasUnsent(): bool
    {
        return $this->unsent !== '';
    }

    public function write(): void
    {
        $written = $this->unsent === '' ? 0 : @fwrite($this->socket, $this->unsent);
        // A connection that is lost is noticed when it is read.
        $this->unsent = $written === false ? '' : substr($this->unsent, $written);
    }

    public function read(): void
    {
        $bytes = @fread($this->socket, 65536);
        if (($bytes === false || $bytes === '') && feof($this->socket)) {
            $this->close();
            return;
        }
        // What TLS has decrypted already, nobody is told of.
        while (!$this->isPlain() && ($more = (string) @fread($this->socket, 65536)) !== '') {
            $bytes .= $more;
        }
        $this->received .= $bytes;
        try {
            while ($this->received !== '' && $this->socket) {
                $unpacker = new Unpacker($this->received);
                $message = $unpacker->value();
                $this->received = substr($this->received, $unpacker->at);
                $this->hear($message);
            }
        } catch (Incomplete) {
        }
    }

    private function hear(array $message): void
    {
        $uuid = $message['uuid'] ?? '';
        match ($message['cmd'] ?? null) {
            null, 'pong' => null,
            'data', 'end', 'error' => $this->tunnel->hear($message['cmd'], $uuid, $message['data'] ?? null),
            'auth-success' => $this->tell('accepted'),
            'auth-failed' => $this->tell('refused: ' . $message['message']),
            'callback' => $this->tunnel->run($uuid, $message['data']['serialized']),
            'close' => $this->tunnel->hear('close', $uuid, null),
            'ping' => $this->say(['cmd' => 'pong', 'uuid' => $uuid]),
            'register' => array_map(fn ($at) => Master::join($at['host'], $at['port']), $message['registers']),
            'remove' => array_map(fn ($at) => Master::leave($at['host'], $at['port']), $message['registers']),
            default => $this->tell('command: ' . json_encode($message)),
        };
    }

    private function connect(): void
    {
        if ($this->left) {
            return;
        }
        $at = (str_contains($this->host, '://') ? '' : 'tcp://') . "$this->host:$this->port";
        // As React does, without TCP_NODELAY.
        $this->socket = @stream_socket_client($at, timeout: 5) ?: null;
        if (!$this->socket) {
            React\EventLoop\Loop::addTimer(self::RETRY, $this->connect(...));
            return;
        }
        stream_set_read_buffer($this->socket, 0);
        stream_set_blocking($this->socket, false);
        $this->received = $this->unsent = '';
        $this->tunnel = new Tunnel($this->say(...));
        $this->say(['cmd' => 'auth', 'token' => $this->token]);
    }

    private function isPlain(): bool
    {
        return !str_starts_with($this->host, 'tls://');
    }

    private function close(): void
    {
        if ($this->socket) {
            $this->tell('lost');
            fclose($this->socket);
        }
        $this->socket = null;
        $this->tunnel->close();
        [$host, $port] = explode(':', "$this->host:$this->port");
        if ([$host, $port] === [$this->host, (string) $this->port]) {
            React\EventLoop\Loop::addTimer(self::RETRY, $this->connect(...));
        } elseif (!$this->left) {
            Master::closed($this->host, $this->port);
        }
    }

    private function tell(string $what): void
    {
        fwrite(STDOUT, "$this->host:$this->port $what\n");
    }
}
