<?php

declare(strict_types=1);

namespace Roster\Tests\Support;

use Roster\Client;
use Roster\Exception\RosterException;

/** A real sidecar, of the binary that ROSTER_BIN names, over a tree of nodes in a file. */
final class Roster
{
    /** What masters show. */
    public const TOKEN = 'register-center-token-2024';

    public readonly string $socket;
    public readonly string $tcp;
    public readonly string $shared;
    public readonly string $register;
    public readonly string $registerSocket;
    private ?Process $process = null;
    // Goes last, for what is declared before it ends first.
    private readonly Folder $folder;

    /**
     * @param array<string, string> $nodes by path
     * @param list<string> $settings more than those that every test needs
     * @param string $tables of TOML, in its configuration
     */
    public function __construct(
        array $nodes,
        private readonly bool $hasRegister = false,
        private readonly array $settings = [],
        string $tables = '',
    ) {
        $this->folder = new Folder();
        $this->socket = "{$this->folder->path}/roster.sock";
        $this->shared = "{$this->folder->path}/shared.mdb";
        $this->tcp = self::address();
        $this->register = self::address();
        $this->registerSocket = "{$this->folder->path}/register.sock";
        $this->folder->file('roster.toml', "[[file]]\npath = \"tree.toml\"\n$tables");
        $this->set($nodes);
        $this->start();
    }

    /** The binary; a test that needs it is skipped without it. */
    public static function binary(): string
    {
        $binary = (string) getenv('ROSTER_BIN');
        if (!is_executable($binary)) {
            Skip::because('ROSTER_BIN names no sidecar');
        }
        return realpath($binary);
    }

    /** Whether the binary keeps a shared file. */
    public static function hasShared(): bool
    {
        return str_contains((string) shell_exec(escapeshellarg(self::binary()) . ' config show 2>&1'), '[shared]');
    }

    public function start(): void
    {
        $settings = ["thrift.unix=$this->socket", "thrift.tcp=$this->tcp", ...$this->settings];
        $settings[] = 'register.settle=1s';
        $settings[] = 'register.listen=' . ($this->hasRegister ? $this->register : '');
        $settings[] = "register.tokens={$this->folder->file('tokens', self::TOKEN)}";
        if ($this->hasRegister) {
            $settings[] = "register.unix=$this->registerSocket";
        }
        if (self::hasShared()) {
            array_push($settings, "shared.path=$this->shared", 'shared.state=');
        }
        $flags = array_merge(...array_map(static fn (string $setting) => ['--set', $setting], $settings));
        $command = [self::binary(), 'serve', '--config', "{$this->folder->path}/roster.toml", ...$flags];
        $this->process = new Process($command, "{$this->folder->path}/log");
        Process::until(fn () => self::answers($this->socket, ''), 'the sidecar answers', 60);
        $isWritten = fn () => !self::hasShared() || self::answers('', $this->shared);
        Process::until($isWritten, 'the shared file is written', 60);
    }

    /** A master that connects to it, as the tests of the sidecar have them; it offers `demo`, and more. */
    public function master(string ...$services): Process
    {
        $script = __DIR__ . '/../../../tests/it/php/master.php';
        $port = substr(strrchr($this->register, ':'), 1);
        $command = [PHP_BINARY, $script, $port, self::TOKEN, ...$services];
        return new Process($command, "{$this->folder->path}/master");
    }

    /** A worker that connects to an address of it; it offers `demo`, and more. */
    public function worker(string $address, string ...$services): Process
    {
        $command = [PHP_BINARY, __DIR__ . '/worker.php', $address, self::TOKEN, ...$services];
        return new Process($command, "{$this->folder->path}/worker-" . bin2hex(random_bytes(4)));
    }

    /** @return array{int, string, string} the exit code of a command, what it printed, and what went wrong */
    public function command(string ...$arguments): array
    {
        $command = [self::binary(), ...$arguments, '--address', "unix://$this->socket"];
        $process = proc_open($command, [['file', '/dev/null', 'r'], ['pipe', 'w'], ['pipe', 'w']], $pipes);
        [$output, $wrong] = [stream_get_contents($pipes[1]), stream_get_contents($pipes[2])];
        return [proc_close($process), $output, $wrong];
    }

    public function end(int $signal): void
    {
        $this->process->end($signal);
    }

    /** @param array<string, string> $nodes by path */
    public function set(array $nodes): void
    {
        $line = static fn (string $path, string $data) => json_encode($path, JSON_UNESCAPED_SLASHES) . " = '$data'\n";
        $lines = array_map($line, array_keys($nodes), $nodes);
        $this->folder->file('tree.new', "[nodes]\n" . implode('', $lines));
        rename("{$this->folder->path}/tree.new", "{$this->folder->path}/tree.toml");
    }

    /** A free one. */
    private static function address(): string
    {
        $listener = stream_socket_server('tcp://127.0.0.1:0');
        $address = stream_socket_get_name($listener, false);
        fclose($listener);
        return $address;
    }

    private static function answers(string $socket, string $shared): bool
    {
        try {
            return Client::local($socket, '', $shared)->get('/', maxAge: 1_000) !== null;
        } catch (RosterException) {
            return false;
        }
    }
}
