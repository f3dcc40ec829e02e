<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Change;
use Roster\ChangeKind;
use Roster\Freshness;
use Roster\Node;
use Roster\Read\Answer;

/**
 * Follows the nodes of some subtrees.
 *
 * @internal
 */
final class NodeFollower extends Follower
{
    /** @param list<string> $paths */
    public function __construct(\Closure $ask, private readonly array $paths, int $waitMs, ?callable $until)
    {
        parent::__construct($ask, $waitMs, $until);
    }

    protected function pages(): \Generator
    {
        $present = static fn (Node $node) => new Change(ChangeKind::Present, $node->path, $node, $node->freshness);
        foreach ($this->paths as $path) {
            [$cursor, $pages] = [null, new Pages()];
            do {
                $page = $this->page(
                    $pages,
                    static fn (Endpoint $endpoint, Deadline $deadline) => $endpoint->subtree($path, $cursor, $deadline),
                );
                [$nodes, $cursor] = $page->value;
                yield new Answer(array_map($present, $nodes), $page->freshness);
            } while ($cursor !== null);
        }
    }

    protected function news(Endpoint $endpoint, int $since): Answer
    {
        return $endpoint->watch($since, $this->paths, $this->waitMs);
    }

    protected function reset(Freshness $freshness): Change
    {
        return new Change(ChangeKind::Reset, '', null, $freshness);
    }
}
