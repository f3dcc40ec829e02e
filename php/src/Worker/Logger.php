<?php

declare(strict_types=1);

namespace Roster\Worker;

// With the package psr/log it implements its interface; without it, it has the same methods.
if (interface_exists(\Psr\Log\LoggerInterface::class)) {
    final class Logger extends Log implements \Psr\Log\LoggerInterface
    {
    }
} else {
    final class Logger extends Log
    {
    }
}
