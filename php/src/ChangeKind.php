<?php

declare(strict_types=1);

namespace Roster;

/** The kind of a change. */
enum ChangeKind
{
    /** The node, or master, exists at the beginning, or after a reset. */
    case Present;
    case Created;
    case Changed;
    case Deleted;
    /** What was reported before is void: the current state follows as `Present`, and anything not in it is gone. */
    case Reset;
}
