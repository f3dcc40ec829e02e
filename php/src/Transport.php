<?php

declare(strict_types=1);

namespace Roster;

/** How an answer came. */
enum Transport: string
{
    /** Read from the shared file, without a call. */
    case Shared = 'shared';
    /** Hydrator by the sidecar, over its Unix socket. */
    case Unix = 'unix';
    /** Hydrator by the sidecar, over loopback TCP. */
    case Tcp = 'tcp';
}
