<?php

declare(strict_types=1);

namespace Roster\Exception;

/** Throw this while a job is performed to bury it: it is performed no more, until somebody retries it. */
final class JobBuried extends RosterException
{
}
