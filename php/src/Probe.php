<?php

declare(strict_types=1);

namespace Roster;

/** What is known of the address of a held instance. */
enum Probe: string
{
    /** Nothing: it was not probed yet, or cannot be. */
    case Untried = 'UNTRIED';
    /** It takes connections. */
    case Answering = 'ANSWERING';
    /** It neither takes nor refuses them. */
    case Silent = 'SILENT';
    /** A state that only a newer sidecar knows. */
    case Unknown = 'UNKNOWN';
}
