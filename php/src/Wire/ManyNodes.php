<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Exception\TransportFailed;
use Roster\Node;
use Roster\Read\Answer;

/**
 * Asks for nodes, possibly more than fit into one request or reply, until all are at one revision.
 *
 * @internal
 */
final class ManyNodes
{
    private const ROUNDS = 20;

    /**
     * @param list<string> $paths
     * @param \Closure(list<string>, ?int): Answer $ask for some, if one has changed since a revision
     * @throws TransportFailed if they keep changing
     */
    public static function read(array $paths, \Closure $ask): Answer
    {
        $batches = Batch::of($paths);
        for ($round = 0; $round < self::ROUNDS; $round++) {
            $revision = max(array_column($batches, 'from'));
            $isThere = static fn (Batch $batch) => $batch->from > 0 && $batch->freshness->revision >= $revision;
            $isDone = true;
            $next = [];
            foreach ($batches as $batch) {
                $isDone = $isDone && $isThere($batch);
                array_push($next, ...($isThere($batch) ? [$batch] : $batch->refresh($ask)));
            }
            if ($isDone) {
                return self::answer($batches, $revision);
            }
            $batches = $next;
        }
        throw new TransportFailed('it changes faster than so much can be read from it');
    }

    /** @param non-empty-list<Batch> $batches */
    private static function answer(array $batches, int $revision): Answer
    {
        $all = array_column($batches, 'freshness');
        if (count($batches) === 1) {
            return new Answer($batches[0]->nodes, $all[0]);
        }
        $freshness = Values::together($all, $revision);
        $nodes = [];
        foreach (array_column($batches, 'nodes') as $some) {
            foreach ($some as $path => $node) {
                $nodes[$path] = new Node($node->path, $node->data, $node->stat, $freshness);
            }
        }
        return new Answer($nodes, $freshness);
    }
}
