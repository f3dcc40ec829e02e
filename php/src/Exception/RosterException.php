<?php

declare(strict_types=1);

namespace Roster\Exception;

/**
 * Everything that this package throws, but for the `JsonException` of what others wrote, and the `LogicException` of a worker
 * that is used wrongly.
 */
abstract class RosterException extends \RuntimeException
{
}
