<?php

declare(strict_types=1);

namespace Roster\Tests\Support;

/** A sidecar that answers as a test says, in a process of its own. */
final class FakeSidecar
{
    private Process $process;
    // Goes last, for what is declared before it ends first.
    private readonly Folder $folder;

    /** What a client calls it: a path, or host and port. */
    public readonly string $address;

    /** @param list<list<array>> $connections the answers on each, see Answer */
    public function __construct(array $connections, ?string $socket = null, bool $isTcp = false)
    {
        $this->folder = new Folder();
        $script = $this->folder->file('script.json', json_encode($connections));
        $listen = $isTcp ? 'tcp://127.0.0.1:0' : 'unix://' . ($socket ?? "{$this->folder->path}/roster.sock");
        $command = [PHP_BINARY, __DIR__ . '/fake.php', $listen, $script];
        $this->process = new Process($command, "{$this->folder->path}/log");
        Process::until(fn () => str_contains($this->process->output(), "\n"), 'the fake listens');
        $this->address = substr(strstr($this->process->output(), "\n", true), strlen('listening '));
    }

    public function end(): void
    {
        $this->process->end(SIGKILL);
        if ($this->address[0] === '/') {
            @unlink($this->address);
        }
    }

    /** Stops it in its tracks: connections are taken by the kernel, and nothing is answered. */
    public function hang(): void
    {
        posix_kill($this->process->id, SIGSTOP);
    }

    public function id(): int
    {
        return $this->process->id;
    }

    /** @return list<string> what it saw */
    public function seen(): array
    {
        return array_slice(explode("\n", trim($this->process->output())), 1);
    }

    /** Waits until it has seen just this. */
    public function await(string ...$lines): void
    {
        try {
            Process::until(fn () => $this->seen() === $lines, 'what the fake sees');
        } catch (\RuntimeException $late) {
            throw new \RuntimeException("{$late->getMessage()}: " . implode(', ', $this->seen()));
        }
    }
}
