<?php

declare(strict_types=1);

namespace Roster\Worker;

/**
 * One call, command or message, from its arrival to its answer.
 *
 * @internal
 */
final class Task
{
    /** How many bytes of values may be in flight before the method pauses. From half of it on, the caller reports. */
    private const WINDOW_BYTES = 256 << 10;

    /** When it arrived, in ms since 1970. */
    public readonly int $since;
    /** The generator of its values, if there are many. */
    private ?\Generator $values = null;
    private bool $isBegun = false;
    /** @var \SplQueue<int> of the values in flight */
    private readonly \SplQueue $sizes;
    private int $onTheWay = 0;
    private bool $isReported = false;

    /**
     * @param ?string $uuid the one to answer with; null: it is not answered
     * @param string $what a description, for people
     * @param \Closure $run what it does, and returns
     * @param int $bytes how many bytes its message has
     * @param bool $isCall of a service
     * @param bool $isWindowed whether the caller reports, if asked to, which values it has taken
     */
    public function __construct(
        public readonly ?string $uuid,
        public readonly string $what,
        public readonly \Closure $run,
        public readonly int $bytes,
        public readonly bool $isCall,
        public readonly bool $isWindowed = false,
    ) {
        $this->since = (int) (microtime(true) * 1_000);
        $this->sizes = new \SplQueue();
    }

    /** Takes the result, if that is many values. */
    public function follow(mixed $result): bool
    {
        if (!$result instanceof \Traversable || $result instanceof \JsonSerializable) {
            return false;
        }
        $this->values = $result instanceof \Generator ? $result : (static fn () => yield from $result)();
        return true;
    }

    /**
     * The next of its values in a list; null: there are no more.
     *
     * @return ?array{mixed}
     */
    public function next(): ?array
    {
        if ($this->isBegun) {
            $this->values->next();
        }
        $this->isBegun = true;
        return $this->values->valid() ? [$this->values->current()] : null;
    }

    /** Whether the caller has to take values before there is a next one. */
    public function rests(): bool
    {
        return $this->isReported && $this->onTheWay >= self::WINDOW_BYTES;
    }

    /** Notes what was sent; true: from now on the caller has to report what it takes. */
    public function sent(int $bytes): bool
    {
        if (!$this->isWindowed) {
            return false;
        }
        $this->sizes->enqueue($bytes);
        $this->onTheWay += $bytes;
        $isDue = !$this->isReported && $this->onTheWay >= self::WINDOW_BYTES / 2;
        $this->isReported = $this->isReported || $isDue;
        return $isDue;
    }

    /** Notes that this many more values were taken. */
    public function taken(int $count): void
    {
        for (; $count > 0 && !$this->sizes->isEmpty(); $count--) {
            $this->onTheWay -= $this->sizes->dequeue();
        }
    }

    /** Aborts it. What its `finally` throws is ignored. */
    public function drop(): void
    {
        try {
            $this->values = null;
        } catch (\Throwable) {
        }
    }
}
