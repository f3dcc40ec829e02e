<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\RosterException;
use Roster\Way;
use Roster\Wire\Deadline;

/**
 * One way to what the sidecar knows.
 *
 * @internal
 */
interface Reader
{
    public function way(): Way;

    /** Where it leads, in words. */
    public function target(): string;

    /**
     * The nodes at these paths, by path and all of one revision; those that are not there are left out.
     *
     * @param list<string> $paths
     * @throws RosterException if this way leads to no answer, or to one that is too old
     */
    public function nodes(array $paths, ?int $maxAge, Deadline $deadline): Answer;

    /**
     * The names of a node's children; null if there is no such node.
     *
     * @throws RosterException as above
     */
    public function children(string $path, ?int $maxAge, Deadline $deadline): Answer;
}
