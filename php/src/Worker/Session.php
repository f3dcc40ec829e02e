<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Text;

/**
 * What happens on one connection: requests are started one after the other, and methods that return many values take
 * turns.
 *
 * @internal
 */
final class Session
{
    private const MAX_TASKS = 1_024;
    /**
     * When this much is waiting, no more is read before some of it was started: decoded, it may take 130 times as much.
     */
    private const MAX_WAITING_BYTES = 128 << 10;
    /** Requests with a longer name are ignored: it is kept as long as the task. */
    private const MAX_UUID_BYTES = 1_024;
    private const MAX_ERROR_BYTES = 8 << 10;
    /** How long methods may produce values before messages are read again. */
    private const TURN_NS = 1_000_000;
    /** How long a leaving worker still receives calls that are on their way: refused, they can go elsewhere. */
    private const LEAVE_GRACE_NS = 300_000_000;
    /** A PHP register's request for the services: the only closure that can be answered without running it. */
    private const SERVICES_CLOSURE = 'ServiceRegistry::getServiceNameAndMetadata()';

    /** @var array<Task> what has not been started, */
    private array $waiting = [];
    private int $waitingBytes = 0;
    /** @var array<Task> and what produces many values; by uuid */
    private array $running = [];
    /** What is done just now. */
    private ?Task $current = null;
    /** When it began to leave, by hrtime(). */
    private ?int $leftAt = null;

    /** @param \Closure(): void $onDone called when a call has ended */
    public function __construct(
        public readonly Line $line,
        private readonly Services $services,
        private readonly Logger $log,
        private readonly \Closure $onDone,
    ) {
    }

    /** Whether more may arrive. */
    public function hasRoom(): bool
    {
        return $this->waitingBytes < self::MAX_WAITING_BYTES && !$this->line->isFull();
    }

    /** @return list<Task> what is under way, beginning with what has been started */
    public function tasks(): array
    {
        return [...array_values($this->running), ...array_values($this->waiting)];
    }

    /** @param array<mixed> $message from a register to a master */
    public function hear(array $message, int $bytes): void
    {
        $uuid = self::uuid($message);
        if ($uuid === null) {
            return;
        }
        match ($message['cmd']) {
            'ping' => $this->line->send(['cmd' => 'pong', 'uuid' => $uuid]),
            'list' => $this->list($uuid),
            'callback' => $this->answerClosure($uuid, $message['data'] ?? null),
            'call' => $this->call($uuid, $message['data'] ?? null, $bytes),
            'close' => $this->drop($uuid),
            'stream-taken' => ($this->running[$uuid] ?? null)?->taken((int) ($message['count'] ?? 0)),
            default => null,
        };
    }

    /** @param array<mixed> $message */
    public static function uuid(array $message): ?string
    {
        $uuid = $message['uuid'] ?? null;
        return is_string($uuid) && strlen($uuid) <= self::MAX_UUID_BYTES ? $uuid : null;
    }

    /** Accepts a task, to be done when it is its turn. */
    public function take(Task $task): void
    {
        // Messages have no uuid, so there is nothing to confuse.
        $key = $task->uuid ?? "\0" . spl_object_id($task);
        if (isset($this->waiting[$key]) || isset($this->running[$key])) {
            return;
        }
        if (count($this->waiting) + count($this->running) >= self::MAX_TASKS) {
            $this->refuse($task, 'the master has too many calls under way');
            return;
        }
        $this->waiting[$key] = $task;
        $this->waitingBytes += $task->bytes;
    }

    public function refuse(Task $task, string $why): void
    {
        if ($task->uuid === null) {
            $this->log->warning('left out {what}: {why}', ['what' => $task->what, 'why' => $why]);
            return;
        }
        // The class is for registers of the previous version, which do not know statuses.
        $data = ['message' => $why, 'code' => 0, 'class' => 'roster:refused'];
        $this->line->send(['cmd' => 'error', 'uuid' => $task->uuid, 'data' => $data, 'status' => 'refused']);
    }

    /** Does some of the work; true: there is more. */
    public function work(): bool
    {
        if ($this->line->end() !== null) {
            return false;
        }
        $this->begin();
        if ($this->line->end() !== null) {
            return false;
        }
        $until = hrtime(true) + self::TURN_NS;
        do {
            $isMoving = $this->step($until);
        } while ($isMoving && hrtime(true) < $until);
        return $isMoving || ($this->waiting !== [] && !$this->line->isFull());
    }

    /** Accepts no more, and refuses calls that were not started. */
    public function leave(): void
    {
        if ($this->leftAt !== null) {
            return;
        }
        $this->leftAt = hrtime(true);
        $this->line->send(['cmd' => 'remove']);
        foreach ($this->waiting as $key => $task) {
            if ($task->isCall) {
                $this->forget($key);
                $this->refuse($task, 'the master is leaving');
            }
        }
    }

    public function isLeaving(): bool
    {
        return $this->leftAt !== null;
    }

    /** Whether everything under way has ended and was written. */
    public function hasLeft(): bool
    {
        return $this->leftAt !== null && hrtime(true) - $this->leftAt >= self::LEAVE_GRACE_NS
            && $this->waiting === [] && $this->running === [] && $this->line->isWritten();
    }

    /**
     * Whether a job or another command is under way. Of a call it is not told what the process died of: its caller is to find
     * it lost, and may then have another master do it.
     */
    public function hasCommand(): bool
    {
        return $this->current?->uuid !== null && !$this->current->isCall;
    }

    /** Says what the process dies of in the command that is under way. */
    public function die(Death $of): void
    {
        $this->fail($this->current->uuid, $of);
    }

    /** Aborts everything. */
    public function end(): void
    {
        [$running, $this->running, $this->waiting, $this->waitingBytes] = [$this->running, [], [], 0];
        array_map(static fn (Task $task) => $task->drop(), $running);
    }

    private function list(string $uuid): void
    {
        $services = $this->isLeaving() ? (object) [] : $this->services->list();
        try {
            $this->line->send(['cmd' => 'data', 'uuid' => $uuid, 'data' => $services]);
            $this->line->send(['cmd' => 'end', 'uuid' => $uuid]);
        } catch (\LogicException $error) {
            $this->fail($uuid, $error);
        }
    }

    /** Received code is never run. */
    private function answerClosure(string $uuid, mixed $data): void
    {
        $closure = is_array($data) ? $data['serialized'] ?? '' : '';
        if (is_string($closure) && str_contains($closure, self::SERVICES_CLOSURE)) {
            $this->list($uuid);
        } else {
            $this->fail($uuid, new \RuntimeException('callback not allowed'));
        }
    }

    private function call(string $uuid, mixed $data, int $bytes): void
    {
        $text = static fn (string $key) => is_string($data[$key] ?? null) ? $data[$key] : '';
        [$service, $method, $arguments] = [$text('service'), $text('method'), $data['arguments'] ?? []];
        $run = fn () => is_array($arguments)
            ? $this->services->call($service, $method, $arguments)
            : throw new \InvalidArgumentException('the arguments are neither a list nor a map');
        $isWindowed = ($data['window'] ?? false) === true;
        $task = new Task($uuid, Text::cut("$service.$method", 200), $run, $bytes, true, $isWindowed);
        $this->isLeaving() ? $this->refuse($task, 'the master is leaving') : $this->take($task);
    }

    private function drop(string $uuid): void
    {
        $task = $this->running[$uuid] ?? null;
        unset($this->running[$uuid]);
        $task?->drop();
        $this->forget($uuid);
    }

    private function forget(string|int $key): ?Task
    {
        $task = $this->waiting[$key] ?? null;
        unset($this->waiting[$key]);
        $this->waitingBytes -= $task?->bytes ?? 0;
        return $task;
    }

    /** Starts what has waited longest. */
    private function begin(): void
    {
        $key = array_key_first($this->waiting);
        if ($key === null || $this->line->isFull()) {
            return;
        }
        $task = $this->current = $this->forget($key);
        try {
            $result = ($task->run)();
            if ($task->uuid === null) {
                return;
            }
            if ($task->follow($result)) {
                $this->running[$key] = $task;
                return;
            }
            if ($result !== null) {
                $this->give($task, $result);
            }
            $this->finish($task, null);
        } catch (\Throwable $error) {
            $this->finish($task, $error);
        } finally {
            $this->current = null;
        }
    }

    /** Takes a step of each that produces values, while there is time; true: some can take another. */
    private function step(int $until): bool
    {
        $isMoving = false;
        foreach ($this->running as $key => $task) {
            if ($this->line->isFull() || $this->line->end() !== null) {
                return false;
            }
            if ($task->rests()) {
                continue;
            }
            // It goes to the end: the next turn begins with others.
            unset($this->running[$key]);
            try {
                if ($next = $task->next()) {
                    $this->give($task, $next[0]);
                    $this->running[$key] = $task;
                    $isMoving = true;
                } else {
                    $this->finish($task, null);
                }
            } catch (\Throwable $error) {
                $task->drop();
                $this->finish($task, $error);
            }
            if (hrtime(true) >= $until) {
                return true;
            }
        }
        return $isMoving;
    }

    private function give(Task $task, mixed $value): void
    {
        try {
            $bytes = $this->line->send(['cmd' => 'data', 'uuid' => $task->uuid, 'data' => $value]);
        } catch (\InvalidArgumentException | \LengthException $why) {
            throw new \UnexpectedValueException("the result cannot be sent: {$why->getMessage()}");
        }
        if ($task->sent($bytes)) {
            $this->line->send(['cmd' => 'stream-window', 'uuid' => $task->uuid]);
        }
    }

    private function finish(Task $task, ?\Throwable $error): void
    {
        if ($task->isCall) {
            ($this->onDone)();
        }
        if ($task->uuid === null) {
            $this->log->error('{what} failed: {exception}', ['what' => $task->what, 'exception' => $error]);
        } elseif ($error === null) {
            $this->line->send(['cmd' => 'end', 'uuid' => $task->uuid]);
        } else {
            $this->fail($task->uuid, $error);
        }
    }

    private function fail(string $uuid, \Throwable $error): void
    {
        $thrown = $error instanceof JobFailed ? $error->thrown : $error;
        $code = $thrown->getCode();
        $data = [
            'message' => Text::cut($error->getMessage(), self::MAX_ERROR_BYTES),
            'code' => is_int($code) ? $code : 0,
            'class' => $thrown instanceof NotFound ? 'NotFound' : Text::className($thrown),
        ];
        $this->line->send(['cmd' => 'error', 'uuid' => $uuid, 'data' => $data]);
    }
}
