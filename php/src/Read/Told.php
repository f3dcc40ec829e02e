<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Freshness;
use Roster\Instance;
use Roster\Master;
use Roster\Service;

/**
 * Makes this package's values of what the shared file tells of masters.
 *
 * @internal
 */
final class Told
{
    public static function instance(array $told, Freshness $freshness): Instance
    {
        $offer = self::service($told['offer']);
        return new Instance($told['master'], $told['address'], $offer, $told['outstanding'], $freshness);
    }

    public static function master(array $told, Freshness $freshness): Master
    {
        return new Master(
            $told['id'],
            $told['address'],
            $told['connectedAt'],
            array_map(self::service(...), $told['services']),
            $told['ways'],
            $told['outstanding'],
            $freshness,
        );
    }

    private static function service(array $told): Service
    {
        return new Service($told['name'], $told['version'], $told['metadata']);
    }
}
