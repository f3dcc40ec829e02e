<?php

declare(strict_types=1);

namespace Roster\Exception;

/** Everything that this package throws. */
abstract class RosterException extends \RuntimeException
{
}
