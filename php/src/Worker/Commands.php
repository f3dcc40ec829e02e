<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\InvalidRequest;
use Roster\Text;

/**
 * The commands that a sidecar can send to a worker: `ping`, `status`, and the application's own.
 *
 * @internal
 */
final class Commands
{
    private const BUILT_IN = ['ping', 'status'];
    /** How many tasks are reported. */
    private const MAX_TASKS = 100;

    /** @var array<callable> by name */
    private array $own = [];
    private readonly int $since;
    private int $done = 0;
    private int $jobs = 0;

    /** @param \Closure(): list<Task> $tasks what is under way */
    public function __construct(private readonly string $id, private readonly \Closure $tasks)
    {
        $this->since = (int) (microtime(true) * 1_000);
    }

    public function add(string $name, callable $command): void
    {
        if (self::isBuiltIn($name)) {
            throw new InvalidRequest('name', "the command `$name` is there");
        }
        $this->own[$name] = $command;
    }

    public static function isBuiltIn(string $name): bool
    {
        return in_array($name, self::BUILT_IN, true);
    }

    /** Counts a call that has ended. */
    public function count(): void
    {
        $this->done++;
    }

    /** Counts a job that is begun. */
    public function countJob(): void
    {
        $this->jobs++;
    }

    public function run(string $name, mixed $data): mixed
    {
        return match (true) {
            $name === 'ping' => 'pong',
            $name === 'status' => $this->status(),
            isset($this->own[$name]) => ($this->own[$name])($data),
            default => throw new NotFound('There is no command \'' . Text::cut($name, 200) . "'"),
        };
    }

    /** @return array<string, mixed> times in ms since 1970, memory in bytes */
    private function status(): array
    {
        $calls = array_filter(($this->tasks)(), static fn (Task $task) => $task->isCall);
        $describe = static fn (Task $task) => ['call' => $task->what, 'since' => $task->since];
        return [
            'worker' => $this->id,
            'pid' => getmypid(),
            'memory' => memory_get_usage(),
            'since' => $this->since,
            'done' => $this->done,
            'jobs' => $this->jobs,
            'underWay' => count($calls),
            'doing' => array_map($describe, array_slice(array_values($calls), 0, self::MAX_TASKS)),
        ];
    }
}
