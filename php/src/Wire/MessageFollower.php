<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Freshness;
use Roster\MasterMessage;
use Roster\Read\Answer;

/**
 * Follows what masters send of their own accord. The cursor takes the place of the revision.
 *
 * @internal
 */
final class MessageFollower extends Follower
{
    protected function pages(): \Generator
    {
        yield $this->answer(static fn (Endpoint $way) => $way->watchMessages(0, 0));
    }

    protected function news(Endpoint $way, int $since): Answer
    {
        return $way->watchMessages($since, $this->waitMs);
    }

    protected function reset(Freshness $freshness): MasterMessage
    {
        return new MasterMessage('', [], 0, null);
    }
}
