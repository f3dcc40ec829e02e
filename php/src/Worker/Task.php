<?php

declare(strict_types=1);

namespace Roster\Worker;

/**
 * One call, command or message, from when it is asked to when it is answered.
 *
 * @internal
 */
final class Task
{
    /** So many bytes of values may be on the way before the method rests. From half of it on, the caller reports. */
    private const WINDOW_BYTES = 256 << 10;

    /** When it was asked, in ms since 1970. */
    public readonly int $since;
    /** What gives its values, where it gives many. */
    private ?\Generator $values = null;
    private bool $isBegun = false;
    /** @var \SplQueue<int> of the values on the way */
    private readonly \SplQueue $sizes;
    private int $onTheWay = 0;
    private bool $isReported = false;

    /**
     * @param ?string $uuid under which it is answered; null: it is not
     * @param string $what what it is, for people
     * @param \Closure $run what it does, and gives
     * @param int $bytes how many bytes its message has
     * @param bool $isCall of a service
     * @param bool $isWindowed whether the caller reports what it has taken, if that is wanted
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

    /** Takes what it gives, if that is many values. */
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

    /** Notes that so many values more were taken. */
    public function taken(int $count): void
    {
        for (; $count > 0 && !$this->sizes->isEmpty(); $count--) {
            $this->onTheWay -= $this->sizes->dequeue();
        }
    }

    /** Ends it where it stands. What its `finally` throws is nobody's. */
    public function drop(): void
    {
        try {
            $this->values = null;
        } catch (\Throwable) {
        }
    }
}
