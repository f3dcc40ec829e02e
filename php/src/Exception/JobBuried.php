<?php

declare(strict_types=1);

namespace Roster\Exception;

/** Thrown by what performs a job, it has the job performed no more, until somebody retries it. */
final class JobBuried extends RosterException
{
}
