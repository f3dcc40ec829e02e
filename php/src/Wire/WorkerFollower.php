<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\ChangeKind;
use Roster\Freshness;
use Roster\Read\Answer;
use Roster\WorkerChange;

/**
 * Follows the workers. The cursor takes the place of the revision.
 *
 * @internal
 */
final class WorkerFollower extends Follower
{
    protected function pages(): \Generator
    {
        yield $this->answer(static fn (Endpoint $endpoint) => $endpoint->watchWorkers(0, 0));
    }

    protected function news(Endpoint $endpoint, int $since): Answer
    {
        return $endpoint->watchWorkers($since, $this->waitMs);
    }

    protected function reset(Freshness $freshness): WorkerChange
    {
        return new WorkerChange(ChangeKind::Reset, '', null);
    }
}
