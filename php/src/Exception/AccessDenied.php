<?php

declare(strict_types=1);

namespace Roster\Exception;

/** This user may not do that; the message says who may. */
final class AccessDenied extends RosterException
{
}
