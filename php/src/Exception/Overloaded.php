<?php

declare(strict_types=1);

namespace Roster\Exception;

/** Too many calls are under way, here or at the master, or the master is leaving. Nothing was executed. */
final class Overloaded extends RosterException
{
}
