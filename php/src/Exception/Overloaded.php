<?php

declare(strict_types=1);

namespace Roster\Exception;

/** Too many calls are under way; nothing was sent to a master. */
final class Overloaded extends RosterException
{
}
