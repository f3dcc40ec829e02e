<?php

/**
 * For PHP's setting `opcache.preload`: every page begins with the classes that a read from the shared file needs.
 */

declare(strict_types=1);

require_once __DIR__ . '/autoload.php';

foreach ([
    Roster\Client::class,
    Roster\DefaultPaths::class,
    Roster\Freshness::class,
    Roster\Node::class,
    Roster\Origin::class,
    Roster\Quiet::class,
    Roster\Read\Hydrator::class,
    Roster\Read\Picks::class,
    Roster\Read\SharedFile::class,
    Roster\Read\WarmUp::class,
    Roster\Resolved::class,
    Roster\Transport::class,
] as $class) {
    class_exists($class);
}
