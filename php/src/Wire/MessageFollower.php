<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Freshness;
use Roster\MasterMessage;
use Roster\Read\Answer;

/**
 * Follows what masters send unprompted. The cursor takes the place of the revision.
 *
 * @internal
 */
final class MessageFollower extends Follower
{
    protected function pages(): \Generator
    {
        yield $this->answer(static fn (Endpoint $endpoint) => $endpoint->watchMessages(0, 0));
    }

    protected function news(Endpoint $endpoint, int $since): Answer
    {
        return $endpoint->watchMessages($since, $this->waitMs);
    }

    protected function reset(Freshness $freshness): MasterMessage
    {
        return new MasterMessage('', [], 0, null);
    }
}
