<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Change;
use Roster\Exception\NotReady;
use Roster\Exception\TransportFailed;
use Roster\Exception\Unavailable;
use Roster\Freshness;
use Roster\MasterChange;
use Roster\MasterMessage;
use Roster\Read\Answer;
use Roster\WorkerChange;

/**
 * Follows something: the current state, then every change.
 *
 * @internal
 */
abstract class Follower
{
    private const FIRST_PAUSE_MS = 100;
    private const LONGEST_PAUSE_MS = 2_000;
    /** Whoever answers so often what cannot be read will not answer otherwise. */
    private const MOST_STRANGE = 5;

    /** The revision up to which everything was yielded; null: the current state comes next. */
    private ?int $since = null;
    /** Whether anything was yielded that a reset must revoke. */
    private bool $hasYielded = false;
    /** Whether a sidecar has ever answered: from then on it is waited for. */
    private bool $hasMet = false;
    private int $pauseMs = self::FIRST_PAUSE_MS;
    /** How many answers were strange since the last time that all went well. */
    private int $strange = 0;

    /**
     * @param \Closure(callable): Answer $ask asks an endpoint
     * @param ?callable(): bool $until
     */
    public function __construct(
        private readonly \Closure $ask,
        protected readonly int $waitMs,
        private $until,
    ) {
    }

    /** @return \Generator<int, Change|MasterChange|MasterMessage|WorkerChange> */
    public function changes(): \Generator
    {
        while ($this->until === null || !($this->until)()) {
            try {
                foreach ($this->since === null ? $this->present() : $this->changed($this->since) as $change) {
                    yield $change;
                }
                [$this->pauseMs, $this->strange] = [self::FIRST_PAUSE_MS, 0];
            } catch (NotReady) {
                $this->hasMet = true;
                $this->pause();
            } catch (Unavailable $failure) {
                if (!$this->hasMet || $this->strange >= self::MOST_STRANGE) {
                    throw $failure;
                }
                $this->pause();
            }
        }
    }

    /** @return \Generator<int, Answer> the current state, page by page, each a list of changes */
    abstract protected function pages(): \Generator;

    /** The changes since a revision, from an endpoint; null if these are no longer known. */
    abstract protected function news(Endpoint $endpoint, int $since): Answer;

    abstract protected function reset(Freshness $freshness): Change|MasterChange|MasterMessage|WorkerChange;

    protected function answer(callable $question): Answer
    {
        $answer = ($this->ask)(function (Endpoint $endpoint, Deadline $deadline) use ($question): Answer {
            try {
                return $question($endpoint, $deadline);
            } catch (TransportFailed $failure) {
                $this->strange += (int) $failure->isStrange;
                throw $failure;
            }
        });
        $this->hasMet = true;
        return $answer;
    }

    /** The same for one page of several, whose value ends with the cursor of the next one. */
    protected function page(Pages $pages, callable $question): Answer
    {
        return $this->answer(static function (Endpoint $endpoint, Deadline $deadline) use ($pages, $question): Answer {
            $page = $question($endpoint, $deadline);
            $pages->follow($page->value[1]);
            return $page;
        });
    }

    /** A later page may be newer than the first: changes in between are yielded again by what follows. */
    private function present(): \Generator
    {
        $first = null;
        foreach ($this->pages() as $page) {
            if ($first === null) {
                $first = $page->freshness->revision;
                if ($this->hasYielded) {
                    yield $this->reset($page->freshness);
                }
                $this->hasYielded = true;
            }
            yield from $page->value;
        }
        $this->since = $first;
    }

    private function changed(int $since): \Generator
    {
        $reply = $this->answer(fn (Endpoint $endpoint) => $this->news($endpoint, $since));
        yield from $reply->value ?? [];
        $this->since = $reply->value === null ? null : $reply->freshness->revision;
    }

    private function pause(): void
    {
        usleep(random_int(intdiv($this->pauseMs, 2), $this->pauseMs) * 1_000);
        $this->pauseMs = min($this->pauseMs * 2, self::LONGEST_PAUSE_MS);
    }
}
