<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\NotReady;
use Roster\Exception\Unavailable;
use Roster\Read\Answer;
use Roster\Wire\Deadline;
use Roster\Wire\Endpoint;

/**
 * Follows some subtrees: what is there, then every change.
 *
 * @internal
 */
final class Follower
{
    private const FIRST_PAUSE_MS = 100;
    private const LONGEST_PAUSE_MS = 2_000;

    /** The revision up to which everything is told; null: what is there comes next. */
    private ?int $since = null;
    /** Whether anything was told that a reset must take back. */
    private bool $hasTold = false;
    /** Whether a sidecar has ever answered: from then on it is waited for. */
    private bool $hasMet = false;
    private int $pauseMs = self::FIRST_PAUSE_MS;

    /**
     * @param \Closure(callable): Answer $ask asks an endpoint
     * @param list<string> $paths
     * @param ?callable(): bool $until
     */
    public function __construct(
        private readonly \Closure $ask,
        private readonly array $paths,
        private readonly int $waitMs,
        private $until,
    ) {
    }

    /** @return \Generator<int, Change> */
    public function changes(): \Generator
    {
        while ($this->until === null || !($this->until)()) {
            try {
                foreach ($this->since === null ? $this->present() : $this->changed($this->since) as $change) {
                    yield $change;
                }
                $this->pauseMs = self::FIRST_PAUSE_MS;
            } catch (NotReady) {
                $this->hasMet = true;
                $this->pause();
            } catch (Unavailable $failure) {
                if (!$this->hasMet) {
                    throw $failure;
                }
                $this->pause();
            }
        }
    }

    /** A later page may be newer than the first: what changed in between is told again by what follows. */
    private function present(): \Generator
    {
        $first = null;
        foreach ($this->paths as $path) {
            $cursor = '';
            do {
                $page = $this->answer(
                    static fn (Endpoint $way, Deadline $deadline) => $way->subtree($path, $cursor, $deadline)
                );
                if ($first === null) {
                    $first = $page->freshness->revision;
                    if ($this->hasTold) {
                        yield new Change(ChangeKind::Reset, '', null, $page->freshness);
                    }
                    $this->hasTold = true;
                }
                [$nodes, $cursor] = $page->value;
                foreach ($nodes as $node) {
                    yield new Change(ChangeKind::Present, $node->path, $node, $node->freshness);
                }
            } while ($cursor !== null);
        }
        $this->since = $first;
    }

    private function changed(int $since): \Generator
    {
        $reply = $this->answer(fn (Endpoint $way) => $way->watch($since, $this->paths, $this->waitMs));
        yield from $reply->value ?? [];
        $this->since = $reply->value === null ? null : $reply->freshness->revision;
    }

    private function answer(callable $question): Answer
    {
        $answer = ($this->ask)($question);
        $this->hasMet = true;
        return $answer;
    }

    private function pause(): void
    {
        usleep(random_int(intdiv($this->pauseMs, 2), $this->pauseMs) * 1_000);
        $this->pauseMs = min($this->pauseMs * 2, self::LONGEST_PAUSE_MS);
    }
}
