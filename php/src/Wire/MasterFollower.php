<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\ChangeKind;
use Roster\Freshness;
use Roster\Master;
use Roster\MasterChange;
use Roster\Read\Answer;

/**
 * Follows the masters.
 *
 * @internal
 */
final class MasterFollower extends Follower
{
    protected function pages(): \Generator
    {
        $present = static fn (Master $one) => new MasterChange(ChangeKind::Present, $one->id, $one, $one->freshness);
        [$cursor, $pages] = [null, new Pages()];
        do {
            $page = $this->page(
                $pages,
                static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->mastersPage(null, $cursor, $deadline),
            );
            [$masters, $cursor] = $page->value;
            yield new Answer(array_map($present, $masters), $page->freshness);
        } while ($cursor !== null);
    }

    protected function news(Endpoint $endpoint, int $since): Answer
    {
        return $endpoint->watchMasters($since, $this->waitMs);
    }

    protected function reset(Freshness $freshness): MasterChange
    {
        return new MasterChange(ChangeKind::Reset, '', null, $freshness);
    }
}
