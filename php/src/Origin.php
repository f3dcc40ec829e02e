<?php

declare(strict_types=1);

namespace Roster;

/** Where the data behind an answer comes from. */
enum Origin: int
{
    /** From the sources, since the sidecar started. */
    case Live = 1;
    /** From the state of an earlier sidecar; the sources have not been reached since. */
    case Restored = 2;
    /** A newer sidecar says what this package does not know. */
    case Unknown = 0;
}
