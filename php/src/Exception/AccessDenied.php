<?php

declare(strict_types=1);

namespace Roster\Exception;

/** The sidecar does not let this user do that; the message says who may. */
final class AccessDenied extends RosterException
{
}
