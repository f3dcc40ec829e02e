<?php
/** A connection to one register, made again when it is lost. */
class Connection
{
    private const RETRY = 0.2;

    private $socket = null;
    private string $received = '';
    private array $streams = [];
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
        $bytes = pack_value($message);
        while ($bytes !== '' && $this->socket) {
            $written = @fwrite($this->socket, $bytes);
            // A connection that is lost is noticed when it is read.
            $bytes = $written ? substr($bytes, $written) : '';
        }
    }

    public function read(): void
    {
        $bytes = @fread($this->socket, 65536);
        if (($bytes === false || $bytes === '') && ($this->isPlain() || feof($this->socket))) {
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
            null, 'data', 'end', 'error', 'pong' => null,
            'auth-success' => $this->tell('accepted'),
            'auth-failed' => $this->tell('refused: ' . $message['message']),
            'callback' => $this->run($uuid, $message['data']['serialized']),
            'close' => $this->forget($uuid),
            'ping' => $this->say(['cmd' => 'pong', 'uuid' => $uuid]),
            'register' => array_map(fn ($at) => Master::join($at['host'], $at['port']), $message['registers']),
            'remove' => array_map(fn ($at) => Master::leave($at['host'], $at['port']), $message['registers']),
            default => $this->tell('command: ' . json_encode($message)),
        };
    }

    private function run(string $uuid, string $serialized): void
    {
        $say = function (array $message): void {
            $this->say($message);
            if ($message['cmd'] !== 'data') {
                unset($this->streams[$message['uuid']]);
            }
        };
        $this->streams[$uuid] = new Stream($uuid, $say);
        $this->streams[$uuid]->run($serialized);
    }

    private function forget(string $uuid): void
    {
        $this->tell("closed $uuid");
        ($this->streams[$uuid] ?? null)?->close();
        unset($this->streams[$uuid]);
    }

    private function connect(): void
    {
        if ($this->left) {
            return;
        }
        $at = ($this->isPlain() ? 'tcp://' : '') . "$this->host:$this->port";
        // Two messages in a row would wait for one another.
        $context = stream_context_create(['socket' => ['tcp_nodelay' => true], 'ssl' => ['cafile' => getenv('REGISTER_CA') ?: null]]);
        $this->socket = @stream_socket_client($at, timeout: 5, context: $context) ?: null;
        if (!$this->socket) {
            Master::after(self::RETRY, $this->connect(...));
            return;
        }
        stream_set_read_buffer($this->socket, 0);
        stream_set_blocking($this->socket, $this->isPlain());
        $this->received = '';
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
        array_map(fn ($stream) => $stream->close(), $this->streams);
        $this->streams = [];
        Master::after(self::RETRY, $this->connect(...));
    }

    private function tell(string $what): void
    {
        fwrite(STDOUT, "$this->host:$this->port $what\n");
    }
}
