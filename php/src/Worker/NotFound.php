<?php

declare(strict_types=1);

namespace Roster\Worker;

/**
 * There is no such service, method or command here.
 *
 * @internal
 */
final class NotFound extends \RuntimeException
{
}
