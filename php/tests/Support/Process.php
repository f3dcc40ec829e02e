<?php

declare(strict_types=1);

namespace Roster\Tests\Support;

/** A process of a test; it is ended, by its id, when it is let go. */
final class Process
{
    /** @var resource */
    private $process;
    public readonly int $id;

    /**
     * @param list<string> $command
     * @param string $log where its output goes
     * @param array<string, string> $environment more than it inherits
     * @param array<int, resource> $descriptors from 3 on
     */
    public function __construct(
        array $command,
        private readonly string $log,
        array $environment = [],
        array $descriptors = [],
    ) {
        $output = ['file', $log, 'a'];
        $streams = [['file', '/dev/null', 'r'], $output, $output] + $descriptors;
        $this->process = proc_open($command, $streams, $pipes, null, [...getenv(), ...$environment]);
        $this->id = proc_get_status($this->process)['pid'];
    }

    public function __destruct()
    {
        $this->end(SIGTERM);
    }

    public function end(int $signal): void
    {
        if (!is_resource($this->process)) {
            return;
        }
        proc_terminate($this->process, $signal);
        proc_terminate($this->process, SIGCONT);
        $deadline = microtime(true) + 5;
        while (proc_get_status($this->process)['running']) {
            if (microtime(true) > $deadline) {
                proc_terminate($this->process, SIGKILL);
            }
            usleep(2_000);
        }
        proc_close($this->process);
    }

    /** Waits until it has ended; its exit code. */
    public function await(): int
    {
        self::until(function () use (&$status): bool {
            $status = proc_get_status($this->process);
            return !$status['running'];
        }, 'the process ends', 30);
        proc_close($this->process);
        return $status['exitcode'];
    }

    public function output(): string
    {
        return (string) file_get_contents($this->log);
    }

    /** Waits until something holds. */
    public static function until(callable $condition, string $what, float $seconds = 30): void
    {
        $deadline = microtime(true) + $seconds;
        while (!$condition()) {
            if (microtime(true) > $deadline) {
                throw new \RuntimeException("not in time: $what");
            }
            usleep(2_000);
        }
    }
}
