<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Change;
use Roster\ChangeKind;
use Roster\Client;
use Roster\Exception\InvalidRequest;
use Roster\Exception\Unavailable;
use Roster\Tests\Support\Answer;
use Roster\Tests\Support\FakeSidecar;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Patient;
use Roster\Thrift;

/** A watch tells what is there and then every change, without a hole. */
final class WatchTest extends TestCase
{
    public function testWhatIsThereComesPageByPageAndThenTheChanges(): void
    {
        $fake = new FakeSidecar([[
            Answer::subtree(5, ['/a' => '1'], '/a'),
            Answer::subtree(6, ['/a/b' => '2']),
            Answer::watch(6, []),
            Answer::watch(7, ['/a/b' => '3', '/a' => null]),
        ]]);
        self::assertSame(
            ['Present /a 1', 'Present /a/b 2', 'Changed /a/b 3', 'Deleted /a '],
            self::told(self::watch($fake), 4),
        );
    }

    public function testWhatTheSidecarForgotIsTakenBackByAReset(): void
    {
        $fake = new FakeSidecar([[
            Answer::subtree(5, ['/a' => '1']),
            Answer::watch(9, null),
            Answer::subtree(9, ['/b' => '2']),
            Answer::watch(10, ['/b' => '3']),
        ]]);
        self::assertSame(
            ['Present /a 1', 'Reset  ', 'Present /b 2', 'Changed /b 3'],
            self::told(self::watch($fake), 4),
        );
    }

    public function testItGoesOnAfterARestartOfTheSidecar(): void
    {
        $folder = new Folder();
        $socket = "$folder->path/roster.sock";
        $fake = new FakeSidecar([[Answer::subtree(5, ['/a' => '1'])]], $socket);
        $watch = self::watch($fake);
        self::assertSame(['Present /a 1'], self::told($watch, 1));
        $fake->end();
        $notReady = new Thrift\NotReady(['source' => 'zookeeper', 'message' => 'waiting for zookeeper']);
        $successor = new FakeSidecar([[
            Answer::of(new Thrift\Roster_watch_result(['notReady' => $notReady])),
            Answer::watch(6, ['/a' => '2']),
        ]], $socket);
        $watch->next();
        self::assertSame(['Changed /a 2'], self::told($watch, 1));
        $successor->await('connected', 'asked watch', 'asked watch');
    }

    public function testWhatWasToldBeforeARestartAmidTheFirstReadIsTakenBack(): void
    {
        $fake = new FakeSidecar([
            [Answer::subtree(5, ['/gone' => '1'], '/gone'), Answer::subtree(5, [], cut: 0, close: true)],
            [Answer::subtree(5, [], cut: 0, close: true)],
            [Answer::subtree(8, ['/a' => '2'])],
        ]);
        self::assertSame(['Present /gone 1', 'Reset  ', 'Present /a 2'], self::told(self::watch($fake), 3));
    }

    public function testASidecarThatWasNeverThereIsNotWaitedFor(): void
    {
        $this->expectException(Unavailable::class);
        Client::local('/nonexistent/socket', '', '')->watch('/')->current();
    }

    public function testAWrongPathIsRefusedAtOnce(): void
    {
        $this->expectException(InvalidRequest::class);
        Client::local('/nonexistent/socket', '', '')->watch(['/a', '/b/']);
    }

    public function testItEndsWhenItIsToldTo(): void
    {
        $fake = new FakeSidecar([[Answer::subtree(5, ['/a' => '1']), Answer::watch(6, [])]]);
        $asked = 0;
        $watch = Patient::local($fake->address, '', '')->watch('/a', until: static function () use (&$asked): bool {
            return $asked++ === 2;
        });
        self::assertSame(['Present /a 1'], self::told($watch, 99));
    }

    public function testAChangeOfAnUnknownKindIsAChangeOrAReset(): void
    {
        $fake = new FakeSidecar([[
            Answer::subtree(5, ['/a' => '1']),
            self::unknown(6, '/b', '2'),
            self::unknown(7, '/a', null),
            Answer::subtree(7, ['/b' => '2']),
        ]]);
        self::assertSame(
            ['Present /a 1', 'Deleted /gone ', 'Changed /b 2', 'Reset  ', 'Present /b 2'],
            self::told(self::watch($fake), 5),
        );
    }

    public function testAnAnswerThatStaysStrangeEndsTheWatch(): void
    {
        $strange = Answer::of(new Thrift\Roster_watch_result());
        $fake = new FakeSidecar([[Answer::subtree(5, ['/a' => '1']), $strange], ...array_fill(0, 9, [$strange])]);
        $watch = self::watch($fake);
        self::assertSame('/a', $watch->current()->path);
        $this->expectException(Unavailable::class);
        $this->expectExceptionMessage('a strange answer');
        $watch->next();
    }

    public function testPagesThatDoNotEndEndTheWatch(): void
    {
        $page = Answer::subtree(5, ['/a' => '1'], '/a');
        $fake = new FakeSidecar([array_fill(0, 50, $page)]);
        $this->expectException(Unavailable::class);
        $this->expectExceptionMessage('its pages do not end');
        self::told(self::watch($fake), 50);
    }

    public function testAMessageThatCannotBeReadKeepsNoOtherBack(): void
    {
        $message = static fn (string $packed) =>
            new Thrift\MasterMessage(['masterId' => 'm', 'message' => $packed, 'receivedAt' => 1]);
        $messages = [$message("\x81\xa3cmd\xa1a"), $message("\xa1a"), $message("\xc6\0\0\1\0ab"), $message("\x81\xa3cmd\xa1b")];
        $reply = ['messages' => $messages, 'cursor' => 8, 'reset' => false, 'missed' => 0];
        $reply = new Thrift\Roster_watchMessages_result(['success' => new Thrift\MessagesReply($reply)]);
        $told = [];
        $fake = new FakeSidecar([[Answer::of($reply)]]);
        foreach (Patient::local($fake->address, '', '')->watchMessages() as $one) {
            $told[] = [$one->message['cmd'] ?? null, $one->missed];
            if (count($told) === 4) {
                break;
            }
        }
        self::assertSame([['a', 0], [null, 1], [null, 1], ['b', 0]], $told);
    }

    public function testItCarriesItsNodesWithStatAndRevision(): void
    {
        $fake = new FakeSidecar([[Answer::subtree(5, ['/a' => '1']), Answer::watch(6, ['/a' => null])]]);
        [$present, $deleted] = self::changes(self::watch($fake), 2);
        self::assertSame([8, 5], [$present->node->stat->numChildren, $present->freshness->revision]);
        self::assertSame([ChangeKind::Deleted, 6], [$deleted->kind, $deleted->freshness->revision]);
        self::assertNull($deleted->node);
    }

    private static function watch(FakeSidecar $fake): \Generator
    {
        return Patient::local($fake->address, '', '')->watch('/');
    }

    /** A deletion, and a change of a kind that only a newer sidecar knows. */
    private static function unknown(int $revision, string $path, ?string $data): array
    {
        $gone = new Thrift\Change(['path' => '/gone', 'kind' => Thrift\ChangeKind::DELETED]);
        $node = $data === null ? null : new Thrift\Node(['path' => $path, 'data' => $data, 'stat' => new Thrift\Stat(
            array_fill_keys(['version', 'czxid', 'mzxid', 'pzxid', 'ctime', 'mtime', 'ephemeralOwner', 'numChildren'], 1),
        )]);
        $changes = [$gone, new Thrift\Change(['path' => $path, 'kind' => 9, 'node' => $node])];
        $reply = ['changes' => $changes, 'reset' => false, 'freshness' => Answer::freshness($revision)];
        return Answer::of(new Thrift\Roster_watch_result(['success' => new Thrift\WatchReply($reply)]));
    }

    /** @return list<string> the next changes in words */
    private static function told(\Generator $watch, int $count): array
    {
        $words = static fn (Change $change) => "{$change->kind->name} $change->path {$change->node?->data}";
        return array_map($words, self::changes($watch, $count));
    }

    /** @return list<Change> */
    private static function changes(\Generator $watch, int $count): array
    {
        $changes = [];
        while ($watch->valid()) {
            $changes[] = $watch->current();
            if (count($changes) === $count) {
                break;
            }
            $watch->next();
        }
        return $changes;
    }
}
