<?php

declare(strict_types=1);

namespace Roster;

/** What a watch tells of. */
enum ChangeKind
{
    /** The node, or master, is there at the beginning, or after a reset. */
    case Present;
    case Created;
    case Changed;
    case Deleted;
    /** What was reported before no longer counts: what is there follows as `Present`, and what does not follow is gone. */
    case Reset;
}
