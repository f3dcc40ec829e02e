<?php

declare(strict_types=1);

namespace Roster\Tests\Support;

use Roster\Wire\MessagePack;
use Roster\Wire\Scanner;

/** The sidecar's end of the channel of a worker that it has started. */
final class Supervisor
{
    /** @var resource */
    private $channel;
    private string $in = '';
    public readonly Process $worker;
    /** @var list<array<mixed>> what has come and was not asked for, first the oldest */
    private array $messages = [];
    private int $asked = 0;
    // Goes last, for what is declared before it ends first.
    private readonly Folder $folder;

    /**
     * @param array<string, string> $environment
     * @param list<resource> $listeners
     * @param ?list<string> $command null: the worker of the tests
     */
    public function __construct(
        array $environment = [],
        array $listeners = [],
        ?array $command = null,
        bool $isAccepted = true,
    ) {
        $this->folder = new Folder();
        [$this->channel, $other] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        stream_set_read_buffer($this->channel, 0);
        $descriptors = array_combine(range(3, 3 + count($listeners)), [...$listeners, $other]);
        $environment += [
            'ROSTER_CHANNEL' => (string) (3 + count($listeners)),
            'ROSTER_WORKER' => 'web/3',
            'LISTEN_FDS' => (string) count($listeners),
        ];
        $php = implode(' ', array_map('escapeshellarg', $command ?? [PHP_BINARY, __DIR__ . '/worker.php']));
        // What PHP has open its processes inherit: this end of the channel too.
        $last = array_key_last($descriptors);
        $close = "for fd in /proc/$$/fd/*; do fd=\${fd##*/}; [ \$fd -gt $last ] && eval \"exec \$fd>&-\"; done";
        $shell = ['bash', '-c', "$close; LISTEN_PID=\${LISTEN_PID:-$$} exec $php"];
        $this->worker = new Process($shell, "{$this->folder->path}/worker", $environment, $descriptors);
        if ($isAccepted) {
            $this->accept();
        }
    }

    /** @return array<mixed> how the worker made itself known */
    public function accept(): array
    {
        $auth = $this->receive('auth');
        $this->send(['cmd' => 'auth-success', 'message' => '']);
        return $auth;
    }

    /** @param array<string, mixed> $message */
    public function send(array $message): void
    {
        $this->write(MessagePack::pack($message));
    }

    public function write(string $bytes): void
    {
        for (; $bytes !== ''; $bytes = substr($bytes, $written)) {
            $written = (int) fwrite($this->channel, $bytes);
        }
    }

    /** @return array<mixed> the next message with this command */
    public function receive(string $command): array
    {
        Process::until(function () use ($command, &$found): bool {
            foreach ($this->messages as $index => $message) {
                if ($message['cmd'] === $command) {
                    $found = $message;
                    array_splice($this->messages, $index, 1);
                    return true;
                }
            }
            $this->read(0.05);
            return false;
        }, "a message `$command` comes", 30);
        return $found;
    }

    /** Whether a message with this command has come and was not taken. */
    public function has(string $command): bool
    {
        return in_array($command, array_column($this->messages, 'cmd'), true);
    }

    /**
     * Asks for something, under a uuid of its own.
     *
     * @param array<string, mixed> $message
     * @return array{list<mixed>, ?array<mixed>} the values, and the error
     */
    public function ask(array $message): array
    {
        return $this->answer($this->begin($message));
    }

    /** @param array<string, mixed> $message */
    public function begin(array $message): string
    {
        $uuid = 'u' . $this->asked++;
        $this->send($message + ['uuid' => $uuid]);
        return $uuid;
    }

    public function beginCall(string $method, mixed ...$arguments): string
    {
        return $this->begin(['cmd' => 'call', 'data' => ['service' => 'demo'] + compact('method', 'arguments')]);
    }

    /** @return array{list<mixed>, ?array<mixed>} */
    public function answer(string $uuid): array
    {
        $values = [];
        Process::until(function () use ($uuid, &$values, &$error): bool {
            foreach ($this->messages as $index => $message) {
                if (($message['uuid'] ?? null) !== $uuid) {
                    continue;
                }
                unset($this->messages[$index]);
                if ($message['cmd'] === 'data') {
                    $values[] = $message['data'];
                } elseif ($message['cmd'] === 'end' || $message['cmd'] === 'error') {
                    $error = $message['cmd'] === 'error' ? $message : null;
                    $this->messages = array_values($this->messages);
                    return true;
                }
            }
            $this->messages = array_values($this->messages);
            $this->read(0.05);
            return false;
        }, "an answer to $uuid", 30);
        return [$values, $error];
    }

    /**
     * @param array<mixed> $arguments
     * @return array{list<mixed>, ?array<mixed>}
     */
    public function call(string $method, array $arguments = [], string $service = 'demo'): array
    {
        return $this->ask(['cmd' => 'call', 'data' => compact('service', 'method', 'arguments')]);
    }

    public function close(): void
    {
        fclose($this->channel);
    }

    /** Whether the worker has closed the channel, and nothing is left in it. */
    public function isClosed(): bool
    {
        $this->read(0.05);
        return feof($this->channel);
    }

    private function read(float $seconds): void
    {
        [$read, $none] = [[$this->channel], null];
        if (!stream_select($read, $none, $none, 0, (int) ($seconds * 1e6))) {
            return;
        }
        $this->in .= fread($this->channel, 1 << 20);
        for ($from = 0; ($size = (new Scanner())->scan($this->in, $from)) !== null; $from += $size) {
            $this->messages[] = MessagePack::unpack(substr($this->in, $from, $size));
        }
        $this->in = substr($this->in, $from);
    }
}
