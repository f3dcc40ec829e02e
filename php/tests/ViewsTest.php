<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Tests\Support\SharedFile;

/** What the sidecar writes is read as it means it: the vectors are those of its own tests. */
final class ViewsTest extends TestCase
{
    private const VECTORS = __DIR__ . '/../../tests/fixtures/views.json';

    /** @dataProvider vectors */
    public function testWhatTheSidecarWritesIsReadAsItMeansIt(string $of, object $json, array $read): void
    {
        $found = self::{$of}($json);
        self::assertSame(self::sorted($read), self::sorted(array_intersect_key($found, $read)));
    }

    /** @return iterable<string, array{string, object, array}> */
    public static function vectors(): iterable
    {
        $text = file_get_contents(self::VECTORS);
        $exact = json_decode($text, flags: JSON_THROW_ON_ERROR);
        foreach (json_decode($text, true, flags: JSON_THROW_ON_ERROR) as $number => $vector) {
            yield "$vector[of]: $vector[what]" => [$vector['of'], $exact[$number]->json, $vector['read']];
        }
    }

    private static function instance(object $json): array
    {
        [$instance] = self::reading(['service/x' => json_encode([$json])])->instances('x');
        return self::values($instance);
    }

    private static function master(object $json): array
    {
        return self::values(self::reading(["master/$json->id" => json_encode($json)])->master($json->id));
    }

    private static function freshness(object $json): array
    {
        $source = [
            'ageMs' => $json->ageMs, 'origin' => $json->origin, 'skippedNodes' => (int) !$json->complete, 'supplies' => ['nodes'],
        ];
        $file = new SharedFile(['/a' => 'x'], $source, revision: $json->revision);
        return self::values(Client::local('', '', $file->path)->get('/a')->freshness);
    }

    private static function node(object $json): array
    {
        $data = $json->data ?? base64_decode($json->dataBase64);
        $entries = ["node$json->path" => $data, "stat$json->path" => json_encode($json->stat)];
        $node = self::reading($entries, 'nodes')->get($json->path);
        $data = isset($json->data) ? ['data' => $node->data] : ['dataBase64' => base64_encode($node->data)];
        return ['path' => $node->path, 'stat' => self::values($node->stat)] + $data;
    }

    private static function reading(array $entries, string $supplies = 'instances'): Client
    {
        static $file;
        $file = new SharedFile([], ['supplies' => [$supplies]]);
        $file->write($entries);
        return Client::local('', '', $file->path);
    }

    /** As plain arrays, enumerations by their values. */
    private static function values(mixed $value): mixed
    {
        return match (true) {
            $value instanceof \BackedEnum => $value->value,
            is_object($value) => array_map(self::values(...), get_object_vars($value)),
            is_array($value) => array_map(self::values(...), $value),
            default => $value,
        };
    }

    private static function sorted(array $values): array
    {
        if (!array_is_list($values)) {
            ksort($values);
        }
        return array_map(static fn (mixed $value) => is_array($value) ? self::sorted($value) : $value, $values);
    }
}
