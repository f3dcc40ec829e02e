<?php

declare(strict_types=1);

namespace Roster\Exception;

/** A worker has no connection to the sidecar that started it: that has ended, or does not accept the worker. */
final class Disconnected extends RosterException
{
}
